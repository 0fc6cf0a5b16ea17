//! The ledger: one byte budget per tier, and who holds what of it.

use super::{Purpose, Tier};
use crate::error::{Error, Result, Status};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed, Ordering::SeqCst};

/// Bytes of one tier. The purposes sum to `used`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TierReport {
    /// The budget; `u64::MAX` = no limit.
    pub limit: u64,
    /// Held now.
    pub used: u64,
    /// The most that was ever held.
    pub peak: u64,
    /// Weights as the model reads them.
    pub weights: u64,
    /// f32 master weights.
    pub master: u64,
    /// Optimizer moments.
    pub moments: u64,
    /// Gradient accumulators.
    pub gradients: u64,
    /// Scratch of streams.
    pub workspace: u64,
    /// Arenas lent to the host.
    pub arena: u64,
    /// Accumulators, scalers, flags.
    pub other: u64,
}

impl TierReport {
    fn new(limit: u64, peak: u64, purposes: [u64; Purpose::ALL.len()]) -> TierReport {
        let [weights, master, moments, gradients, workspace, arena, other] = purposes;
        let used = purposes.iter().fold(0u64, |sum, bytes| sum.saturating_add(*bytes));
        // A charge under way on another thread may have reached the purpose before the peak.
        TierReport { limit, used, peak: peak.max(used), weights, master, moments, gradients, workspace, arena, other }
    }
}

/// What a ledger holds, indexed by tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryReport {
    /// One report per tier, in the order of [`Tier::ALL`].
    pub tier: [TierReport; 4],
}

impl MemoryReport {
    /// What these charges on tiers come to, without a limit; at most `u64::MAX`.
    pub(crate) fn of(charges: &[(Tier, Vec<Charge>)]) -> MemoryReport {
        let mut purposes = [[0u64; Purpose::ALL.len()]; 4];
        for (tier, charge) in charges.iter().flat_map(|(tier, list)| list.iter().map(move |charge| (*tier, charge))) {
            let bytes = &mut purposes[tier as usize][charge.purpose as usize];
            *bytes = bytes.saturating_add(charge.bytes);
        }
        MemoryReport { tier: purposes.map(|p| TierReport::new(u64::MAX, 0, p)) }
    }
}

/// Bytes for a purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Charge {
    pub(crate) purpose: Purpose,
    pub(crate) bytes: u64,
}

struct Account {
    limit: u64,
    used: AtomicU64,
    peak: AtomicU64,
    purposes: [AtomicU64; Purpose::ALL.len()],
}

impl Account {
    /// Purposes that belong together: while other threads move bytes from one to another, those of different moments
    /// may sum to more than was ever held. In a process forked amid a charge they never sum to `used`; then, after
    /// some tries, each is what it is.
    fn report(&self) -> TierReport {
        const TRIES: usize = 10_000;
        let sum = |purposes: &[u64]| purposes.iter().fold(0u64, |sum, bytes| sum.wrapping_add(*bytes));
        let mut tries = 0;
        loop {
            let before = self.used.load(SeqCst);
            let purposes = std::array::from_fn(|p| self.purposes[p].load(SeqCst));
            tries += 1;
            if self.used.load(SeqCst) == before && sum(&purposes) == before || tries == TRIES {
                return TierReport::new(self.limit, self.peak.load(SeqCst), purposes);
            }
            std::hint::spin_loop();
        }
    }
}

/// The budgets of a runtime. Counters only, no locks: a process that forks in the middle of a charge finds it usable.
pub(crate) struct Ledger {
    accounts: [Account; 4],
}

impl Ledger {
    /// A ledger with these budgets, indexed by tier; 0 = no limit.
    pub(crate) fn new(budgets: [u64; 4]) -> Ledger {
        Ledger {
            accounts: budgets.map(|budget| Account {
                limit: if budget == 0 { u64::MAX } else { budget },
                used: AtomicU64::new(0),
                peak: AtomicU64::new(0),
                purposes: std::array::from_fn(|_| AtomicU64::new(0)),
            }),
        }
    }

    /// Enters all charges, or none: `OUT_OF_BUDGET` says what is needed, what is available and who holds the rest.
    pub(crate) fn charge(&self, tier: Tier, charges: &[Charge]) -> Result<()> {
        let Some(needed) = charges.iter().try_fold(0u64, |sum, c| sum.checked_add(c.bytes)) else {
            return Err(self.out_of_budget(tier, u64::MAX, None));
        };
        if !self.enter(tier, needed) {
            return Err(self.out_of_budget(tier, needed, None));
        }
        for charge in charges {
            self.accounts[tier as usize].purposes[charge.purpose as usize].fetch_add(charge.bytes, Relaxed);
        }
        Ok(())
    }

    /// Adds to a charge of `held` bytes. The refusal is put as that of the sum when the charge has been given up.
    pub(crate) fn charge_more(&self, tier: Tier, held: u64, more: Charge) -> Result<()> {
        if !self.enter(tier, more.bytes) {
            let held = Charge { purpose: more.purpose, bytes: held };
            return Err(self.out_of_budget(tier, held.bytes.saturating_add(more.bytes), Some(held)));
        }
        self.accounts[tier as usize].purposes[more.purpose as usize].fetch_add(more.bytes, Relaxed);
        Ok(())
    }

    /// Takes bytes of the budget if it has them.
    fn enter(&self, tier: Tier, needed: u64) -> bool {
        let account = &self.accounts[tier as usize];
        let mut used = account.used.load(Relaxed);
        loop {
            match used.checked_add(needed) {
                Some(after) if after <= account.limit => {
                    match account.used.compare_exchange_weak(used, after, Relaxed, Relaxed) {
                        Ok(_) => {
                            account.peak.fetch_max(after, Relaxed);
                            return true;
                        }
                        Err(now) => used = now,
                    }
                }
                _ => return false,
            }
        }
    }

    /// Takes a charge back.
    pub(crate) fn credit(&self, tier: Tier, charge: Charge) {
        let account = &self.accounts[tier as usize];
        account.purposes[charge.purpose as usize].fetch_sub(charge.bytes, Relaxed);
        account.used.fetch_sub(charge.bytes, Relaxed);
    }

    /// Bytes that are held now, indexed by tier.
    pub(crate) fn used(&self) -> [u64; 4] {
        std::array::from_fn(|i| self.accounts[i].used.load(Relaxed))
    }

    /// What is held now, and by whom.
    pub(crate) fn report(&self) -> MemoryReport {
        MemoryReport { tier: std::array::from_fn(|i| self.accounts[i].report()) }
    }

    /// The refusal of `needed` bytes, for which `returned` would be given up.
    fn out_of_budget(&self, tier: Tier, needed: u64, returned: Option<Charge>) -> Error {
        let account = &self.accounts[tier as usize];
        let returned =
            |p: Option<Purpose>| returned.filter(|c| p.is_none_or(|p| p == c.purpose)).map_or(0, |c| c.bytes);
        let used = account.used.load(Relaxed).saturating_sub(returned(None));
        let holders: Vec<String> = Purpose::ALL
            .into_iter()
            .map(|p| (p, account.purposes[p as usize].load(Relaxed).saturating_sub(returned(Some(p)))))
            .filter(|(_, bytes)| *bytes > 0)
            .map(|(p, bytes)| format!("{} {bytes}", p.name()))
            .collect();
        let holders = if holders.is_empty() { String::new() } else { format!(" ({})", holders.join(", ")) };
        Error::new(
            Status::OutOfBudget,
            format!(
                "needs {needed} bytes of {tier}; budget {}, used {used}{holders}, available {}",
                account.limit,
                account.limit.saturating_sub(used)
            ),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn charge(purpose: Purpose, bytes: u64) -> Charge {
        Charge { purpose, bytes }
    }

    #[test]
    fn charges_are_entered_all_or_none_and_the_message_tells_who_holds_what() {
        let ledger = Ledger::new([100, 0, 0, 0]);
        ledger.charge(Tier::Device, &[charge(Purpose::Weights, 30), charge(Purpose::Arena, 40)]).unwrap();
        let before = ledger.report();
        let error = ledger
            .charge(Tier::Device, &[charge(Purpose::Moments, 30), charge(Purpose::Other, 1)])
            .expect_err("31 bytes of 30");
        assert_eq!(error.status, Status::OutOfBudget);
        assert_eq!(error.message, "needs 31 bytes of DEVICE; budget 100, used 70 (weights 30, arena 40), available 30");
        assert_eq!(ledger.report(), before);
        ledger.charge(Tier::Device, &[charge(Purpose::Moments, 30)]).unwrap();
        ledger.credit(Tier::Device, charge(Purpose::Arena, 40));
        let device = ledger.report().tier[0];
        assert_eq!((device.used, device.peak, device.limit), (60, 100, 100));
        assert_eq!((device.weights, device.moments, device.arena), (30, 30, 0));
    }

    #[test]
    fn sums_that_overflow_are_out_of_budget_even_without_a_limit() {
        let ledger = Ledger::new([0; 4]);
        let huge = charge(Purpose::Other, u64::MAX);
        for charges in [&[huge, huge][..], &[charge(Purpose::Arena, 1), huge]] {
            assert_eq!(ledger.charge(Tier::Host, charges).unwrap_err().status, Status::OutOfBudget);
        }
        assert_eq!(ledger.report().tier[Tier::Host as usize].peak, 0);
    }

    #[test]
    fn threads_never_exceed_the_budget_and_leave_nothing() {
        let ledger = Ledger::new([0, 0, 1000, 0]);
        std::thread::scope(|scope| {
            for purpose in [Purpose::Weights, Purpose::Moments, Purpose::Other] {
                let ledger = &ledger;
                scope.spawn(move || {
                    for i in 0..20_000 {
                        let c = charge(purpose, i % 700);
                        if ledger.charge(Tier::Host, &[c]).is_ok() {
                            ledger.credit(Tier::Host, c);
                        }
                    }
                });
            }
        });
        let host = ledger.report().tier[Tier::Host as usize];
        assert_eq!(host.used, 0);
        assert!(host.peak >= 699 && host.peak <= 1000, "{host:?}");
    }

    #[test]
    fn a_report_amid_charges_holds_no_more_than_the_budget() {
        let ledger = Ledger::new([1000, 0, 0, 0]);
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for i in 0..1_000_000 {
                    let all = charge(Purpose::ALL[i % 7], 1000);
                    ledger.charge(Tier::Device, &[all]).expect("nothing else is held");
                    ledger.credit(Tier::Device, all);
                }
                done.store(true, SeqCst);
            });
            while !done.load(SeqCst) {
                let report = ledger.report().tier[Tier::Device as usize];
                assert!(report.used <= 1000 && report.peak <= 1000, "{report:?}");
            }
        });
    }
}
