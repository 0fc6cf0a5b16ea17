//! The micro-step machine: which call may follow which. It holds no memory and computes nothing.
//!
//! Each call is a check (`can_*`, which changes nothing and says why not) and, once its work has been done, a
//! transition of the same name.

/// Where a state is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Groups and parameters are being added.
    Building,
    /// Sealed, outside of a step.
    Idle,
    /// In a step, between micro-batches.
    Step,
    /// In a micro-batch.
    Micro,
}

/// Why a call was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The call belongs elsewhere: what was expected.
    Order(&'static str),
    /// A parameter is in the way: which, and what is the matter.
    Parameter(usize, &'static str),
}

type Check = Result<(), Refusal>;

/// The machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Machine {
    phase: Phase,
    /// Micro-batches ended in this step.
    micros: u32,
    /// Which parameters have had their gradient in this micro-batch, and how many have not.
    ready: Vec<bool>,
    missing: usize,
    /// Which parameters never change: they have no gradients.
    frozen: Vec<bool>,
    /// How often each parameter is acquired, and the sum of that.
    acquired: Vec<u32>,
    acquisitions: u64,
}

const NOT_SEALED: Refusal = Refusal::Order("the state is not sealed");
const NO_STEP: Refusal = Refusal::Order("no step has been begun");
const IN_STEP: Refusal = Refusal::Order("a step has been begun; take or abandon it first");
const IN_MICRO: Refusal = Refusal::Order("a micro-batch has been begun; end it first");
const NO_MICRO: Refusal = Refusal::Order("no micro-batch has been begun");

impl Machine {
    pub(super) fn new() -> Machine {
        Machine {
            phase: Phase::Building,
            micros: 0,
            ready: Vec::new(),
            missing: 0,
            frozen: Vec::new(),
            acquired: Vec::new(),
            acquisitions: 0,
        }
    }

    /// Adding groups and parameters, and sealing.
    pub(super) fn can_build(&self) -> Check {
        if self.phase == Phase::Building { Ok(()) } else { Err(Refusal::Order("the state is sealed already")) }
    }

    /// With whether each parameter is frozen.
    pub(super) fn seal(&mut self, frozen: impl Iterator<Item = bool>) {
        self.phase = Phase::Idle;
        self.frozen = frozen.collect();
        self.ready = self.frozen.clone();
        self.acquired = vec![0; self.frozen.len()];
    }

    pub(super) fn is_sealed(&self) -> bool {
        self.phase != Phase::Building
    }

    /// Anything that needs memory.
    pub(super) fn can_use(&self) -> Check {
        if self.is_sealed() { Ok(()) } else { Err(NOT_SEALED) }
    }

    /// Anything that is done between steps.
    pub(super) fn can_change(&self) -> Check {
        match self.phase {
            Phase::Building => Err(NOT_SEALED),
            Phase::Idle => Ok(()),
            Phase::Step | Phase::Micro => Err(IN_STEP),
        }
    }

    /// Writing a parameter.
    pub(super) fn can_write(&self, parameter: usize) -> Check {
        self.can_change()?;
        if self.acquired[parameter] > 0 {
            return Err(Refusal::Parameter(parameter, "is acquired; release it first"));
        }
        Ok(())
    }

    pub(super) fn can_acquire(&self, parameter: usize) -> Check {
        self.can_use()?;
        if self.acquired[parameter] == u32::MAX {
            return Err(Refusal::Parameter(parameter, "is acquired too often"));
        }
        Ok(())
    }

    pub(super) fn acquire(&mut self, parameter: usize) {
        self.acquired[parameter] += 1;
        self.acquisitions += 1;
    }

    pub(super) fn can_release(&self, parameter: usize) -> Check {
        self.can_use()?;
        if self.acquired[parameter] == 0 {
            return Err(Refusal::Parameter(parameter, "is not acquired"));
        }
        Ok(())
    }

    pub(super) fn release(&mut self, parameter: usize) {
        self.acquired[parameter] -= 1;
        self.acquisitions -= 1;
    }

    /// Beginning a step is a change like any other.
    pub(super) fn begin_step(&mut self) {
        self.phase = Phase::Step;
        self.micros = 0;
    }

    /// Whether a micro-batch is in progress.
    pub(super) fn is_in_micro(&self) -> bool {
        self.phase == Phase::Micro
    }

    /// How often a parameter is acquired.
    pub(super) fn acquisitions(&self, parameter: usize) -> u32 {
        self.acquired[parameter]
    }

    /// Whether a step has been begun: gradients are being accumulated.
    pub(super) fn in_step(&self) -> bool {
        matches!(self.phase, Phase::Step | Phase::Micro)
    }

    pub(super) fn can_begin_micro(&self) -> Check {
        match self.phase {
            Phase::Building => Err(NOT_SEALED),
            Phase::Idle => Err(NO_STEP),
            Phase::Step if self.micros == u32::MAX - 1 => Err(Refusal::Order("the step has too many micro-batches")),
            Phase::Step => Ok(()),
            Phase::Micro => Err(IN_MICRO),
        }
    }

    pub(super) fn begin_micro(&mut self) {
        self.phase = Phase::Micro;
        self.ready.clone_from(&self.frozen);
        self.missing = self.frozen.iter().filter(|frozen| !**frozen).count();
    }

    fn in_micro(&self) -> Check {
        match self.phase {
            Phase::Building => Err(NOT_SEALED),
            Phase::Idle => Err(NO_STEP),
            Phase::Step => Err(NO_MICRO),
            Phase::Micro => Ok(()),
        }
    }

    pub(super) fn can_gradient(&self, parameter: usize) -> Check {
        self.in_micro()?;
        if self.frozen[parameter] {
            return Err(Refusal::Parameter(parameter, "is frozen, it takes no gradient"));
        }
        if self.ready[parameter] {
            return Err(Refusal::Parameter(parameter, "has had its gradient in this micro-batch"));
        }
        Ok(())
    }

    pub(super) fn gradient(&mut self, parameter: usize) {
        self.ready[parameter] = true;
        self.missing -= 1;
    }

    /// Whether the parameter has had a gradient in this step.
    pub(super) fn has_gradient(&self, parameter: usize) -> bool {
        match self.phase {
            Phase::Building | Phase::Idle => false,
            Phase::Step => self.micros > 0,
            Phase::Micro => self.micros > 0 || self.ready[parameter],
        }
    }

    pub(super) fn can_end_micro(&self) -> Check {
        self.in_micro()?;
        if self.missing > 0 {
            let first = self.ready.iter().position(|ready| !ready).expect("one is missing");
            return Err(Refusal::Parameter(first, "has had no gradient in this micro-batch"));
        }
        Ok(())
    }

    pub(super) fn end_micro(&mut self) {
        self.phase = Phase::Step;
        self.micros += 1;
    }

    /// Number of the micro-batch in progress; between micro-batches, how many have ended.
    pub(super) fn micros(&self) -> u32 {
        self.micros
    }

    pub(super) fn can_step(&self) -> Check {
        match self.phase {
            Phase::Building => return Err(NOT_SEALED),
            Phase::Idle => return Err(NO_STEP),
            Phase::Micro => return Err(IN_MICRO),
            Phase::Step => {}
        }
        if self.acquisitions > 0 {
            let first = self.acquired.iter().position(|count| *count > 0).expect("one is acquired");
            return Err(Refusal::Parameter(first, "is acquired; release it first"));
        }
        Ok(())
    }

    pub(super) fn can_abandon(&self) -> Check {
        match self.phase {
            Phase::Building => Err(NOT_SEALED),
            Phase::Idle => Err(NO_STEP),
            Phase::Step | Phase::Micro => Ok(()),
        }
    }

    /// Leaves the step, taken or abandoned.
    pub(super) fn end_step(&mut self) {
        self.phase = Phase::Idle;
    }
}
