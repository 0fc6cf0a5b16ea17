# The front door of libscaleRT. `make help` says what there is.

VERSION     := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
MAJOR       := $(firstword $(subst ., ,$(VERSION)))
MAJOR_MINOR := $(MAJOR).$(word 2,$(subst ., ,$(VERSION)))

PREFIX  ?= /usr/local
DESTDIR ?=
DATA    ?=
CC      ?= cc
CXX     ?= c++
CARGO   ?= cargo

# CUDA=0 builds without CUDA kernels; otherwise nvcc is found or installed into target/cuda.
CUDA ?= 1
ifeq ($(CUDA),0)
export SCALERT_CUDA := 0
endif
export CUDA

# MPI=0 leaves the tests over MPI out; otherwise mpicc is found or installed into target/mpi.
MPI ?= 1
export MPI

STAGE   := $(CURDIR)/target/stage
RELEASE := target/release

WARN     := -Wall -Wextra -pedantic -Werror
CFLAGS   ?= -O2 -g
CXXFLAGS ?= -O2 -g

# The flags of the staged package, as pkg-config gives them or, without it, as it would.
PKG_CONFIG ?= pkg-config
export PKG_CONFIG_PATH := $(STAGE)/lib/pkgconfig
package_flags = $(shell $(PKG_CONFIG) --cflags --libs scaleRT 2>/dev/null || echo -I$(STAGE)/include -L$(STAGE)/lib -lscaleRT) \
                -Wl,-rpath,$(STAGE)/lib

EXAMPLES := $(patsubst examples/c/%.c,target/examples/%,$(wildcard examples/c/*.c)) \
            $(patsubst examples/cpp/%.cpp,target/examples/%,$(wildcard examples/cpp/*.cpp))
# Includes the C example.
C_ONLY   := tests/c/training_graph.c
C_TESTS  := $(patsubst tests/c/%.c,target/ctests/%,$(wildcard tests/c/*.c)) \
            $(patsubst tests/c/%.c,target/ctests/%-as-cpp,$(filter-out $(C_ONLY),$(wildcard tests/c/*.c))) \
            $(patsubst tests/cpp/%.cpp,target/ctests/%,$(wildcard tests/cpp/*.cpp))

# Those that run a second time, on the emulated CUDA device.
EMULATED_TESTS := $(addprefix target/ctests/,cuda cuda-as-cpp runtime raii trace training_graph)

.PHONY: help build toolchain stage examples demo emulator gpu-bundle resources test lint test-rust test-c test-mpi test-package test-training test-sanitize bench bench-peers bench-report install clean FORCE

help:
	@echo 'make demo [DATA=file]         build, install into target/stage, train a small GPT on the CPU'
	@echo 'make test                     everything that must hold (needs also valgrind and a C++ compiler)'
	@echo 'make examples                 build every example into target/examples/'
	@echo 'make bench [CASE=regex]       time every operation beside its ceiling; BENCH_JSON=file writes JSON lines'
	@echo 'make bench-peers              torch and DeepSpeed on the same cases and training steps, in turn (installs 6 GB into target/)'
	@echo 'make bench-report             tables of bench/README.md and pictures from bench/results/'
	@echo 'make install [PREFIX=dir]     shared and static library, headers, pkg-config and CMake packages'
	@echo 'make gpu-bundle               target/gpu-bundle: conformance, benches and demo for a machine with a GPU'
	@echo 'make resources                updates kernels/resources.tsv: registers and memory of each device kernel'
	@echo 'make lint                     formatting and clippy alone'
	@echo 'make clean                    remove target/'
	@echo 'MPI=0 leaves the tests over MPI out; otherwise Open MPI is installed into target/ where there is none'
	@echo 'CUDA=0 with any of them builds without CUDA kernels; otherwise nvcc is installed into target/ where there is none'

toolchain:
	@packaging/cuda-toolchain.sh

build: toolchain
	$(CARGO) build --release --locked -p scalert-ffi

# ---- the package ---------------------------------------------------------------------------------------------------

# $(1): where; $(2): what runs install, so that `make stage` stays quiet.
define install_package
	install -d '$(1)/lib/pkgconfig' '$(1)/lib/cmake/scaleRT' '$(1)/include'
	install -m 755 $(RELEASE)/libscaleRT.so '$(1)/lib/libscaleRT.so.$(VERSION)'
	ln -sf libscaleRT.so.$(VERSION) '$(1)/lib/libscaleRT.so.$(MAJOR)'
	ln -sf libscaleRT.so.$(MAJOR) '$(1)/lib/libscaleRT.so'
	install -m 644 $(RELEASE)/libscaleRT.a '$(1)/lib/libscaleRT.a'
	install -m 644 include/scaleRT.h include/scaleRT.hpp include/scaleRT_mpi.h '$(1)/include/'
	sed 's/@VERSION@/$(VERSION)/' packaging/scaleRT.pc.in >'$(1)/lib/pkgconfig/scaleRT.pc'
	install -m 644 packaging/scaleRTConfig.cmake '$(1)/lib/cmake/scaleRT/'
	sed 's/@VERSION@/$(VERSION)/; s/@MAJOR_MINOR@/$(MAJOR_MINOR)/' packaging/scaleRTConfigVersion.cmake.in \
	    >'$(1)/lib/cmake/scaleRT/scaleRTConfigVersion.cmake'
endef

install: build
	$(call install_package,$(DESTDIR)$(PREFIX))

stage: build
	@$(call install_package,$(STAGE))

# ---- examples ------------------------------------------------------------------------------------------------------

target/examples/%: examples/c/%.c FORCE | stage
	@mkdir -p $(@D)
	$(CC) -std=c99 $(WARN) $(CFLAGS) $< -o $@ $(package_flags) -lm -lpthread

target/examples/%: examples/cpp/%.cpp FORCE | stage
	@mkdir -p $(@D)
	$(CXX) -std=c++17 $(WARN) $(CXXFLAGS) $< -o $@ $(package_flags)

examples: $(EXAMPLES)

# The demo's text: this project's own sources and documents, in a fixed order.
demo_data = $(if $(DATA),$(DATA),$(shell find README.md ARCHITECTURE.md Cargo.toml Makefile kernels runtime ffi include examples \
            -name target -prune -o -type f \( -name '*.rs' -o -name '*.[ch]' -o -name '*.hpp' -o -name '*.cpp' -o -name '*.md' \
            -o -name '*.toml' -o -name Makefile \) -print | LC_ALL=C sort))

demo: target/examples/train_gpt
	target/examples/train_gpt $(demo_data)

# ---- CUDA ----------------------------------------------------------------------------------------------------------

# The emulated driver, as programs load it: LD_LIBRARY_PATH=target/emulator.
emulator:
	$(CARGO) build --release --locked -p scalert-ptx-emulator
	@install -d target/emulator
	@install -m 755 $(RELEASE)/libscalert_ptx_emulator.so target/emulator/libcuda.so.1

resources: toolchain
	SCALERT_UPDATE_RESOURCES=1 $(CARGO) test --locked -p scalert-kernels --test resources

gpu-bundle: examples $(C_TESTS)
	packaging/gpu-bundle.sh

# ---- tests ---------------------------------------------------------------------------------------------------------

test: lint test-rust test-c test-mpi test-package test-training test-sanitize
	@echo 'every test passed'

lint: toolchain
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --workspace --no-deps --locked --quiet
	@if command -v clang-format >/dev/null; then \
	    clang-format --dry-run --Werror include/*.h include/*.hpp examples/*/*.[ch]* tests/*/*.[ch] tests/cpp/*.cpp \
	        $$(find kernels -name "*.cu" -o -name "*.cuh"); \
	else echo 'clang-format is not installed: the format of C files was not checked'; fi

test-rust: stage emulator
	$(CARGO) test --workspace --locked

target/ctests/%: tests/c/%.c FORCE | stage
	@mkdir -p $(@D)
	$(CC) -std=c99 $(WARN) $(CFLAGS) $< -o $@ $(package_flags) -lm -lpthread -ldl

target/ctests/%-as-cpp: tests/c/%.c FORCE | stage
	@mkdir -p $(@D)
	$(CXX) -std=c++17 $(WARN) $(CXXFLAGS) -x c++ $< -o $@ $(package_flags) -lm -lpthread -ldl

target/ctests/%: tests/cpp/%.cpp FORCE | stage
	@mkdir -p $(@D)
	$(CXX) -std=c++17 $(WARN) $(CXXFLAGS) $< -o $@ $(package_flags) -lpthread

test-c: $(C_TESTS) $(EXAMPLES) emulator
	@set -e; for t in $(C_TESTS) target/examples/hello target/examples/dlpack; do echo "== $$t"; $$t; done
	@set -e; for t in $(EMULATED_TESTS); do echo "== $$t, emulated"; LD_LIBRARY_PATH=target/emulator $$t; done

# With an MPI of the machine or one installed into target/mpi; MPI=0 leaves it out.
test-mpi: target/examples/train_gpt
	@packaging/mpi-toolchain.sh
	@tests/mpi.sh

test-package: $(EXAMPLES)
	tests/package.sh

test-training: target/examples/train_gpt emulator
	tests/training.sh

test-sanitize: stage emulator
	tests/asan.sh
	tests/valgrind.sh

# ---- speed ---------------------------------------------------------------------------------------------------------

bench: toolchain
	$(CARGO) run --release --locked -p scalert-bench --bin scalert-bench

PEERS_JSON ?= target/peers.jsonl
bench-peers: target/examples/train_gpt
	bench/peers/setup.sh
	$(CARGO) build --release --locked -p scalert-bench
	target/peers/bin/python bench/peers/compare.py --json $(PEERS_JSON) --case '$(CASE)'

bench-report:
	$(CARGO) run --release --locked -p scalert-bench --bin scalert-bench-report

clean:
	$(CARGO) clean
