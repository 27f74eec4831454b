# Evidence about the core beyond its tests. docs/assurance.md says what each command shows, and what it does not.

.PHONY: fuzz ctgrind tsan free-threaded mutants coverage loom miri

fuzz: SECONDS := 600
fuzz: .stamps/fuzz ## random input for core and package, ten minutes for all targets; SECONDS=60 for less. Fails if one finds something
	@$(call need,cargo,a Rust toolchain,install Rust $(RUST) or later with rustup or your system's packages)
	@$(call need,c++,a C++ compiler to fuzz,on Debian and Ubuntu install g++; on macOS run xcode-select --install)
	$(BIN)/python rust/fuzz/run.py --seconds $(SECONDS) $(ARGS)

.stamps/fuzz: requirements/fuzz.txt .stamps/build
	$(BIN)/python $(PIP_INSTALL) -r requirements/fuzz.txt
	@touch $@

ctgrind: ## the core's operations on secrets under valgrind: a branch on a secret fails, and leaks on purpose must show
	@$(call need,cargo,a Rust toolchain,install Rust $(RUST) or later with rustup or your system's packages)
	@$(call need,cc,a C compiler,on Debian and Ubuntu install gcc)
	@$(call need,$(PYTHON),Python 3.11 or later,install it or name it with make PYTHON=...)
	$(call system,valgrind:valgrind)
	$(PYTHON) rust/ctgrind/run.py $(ARGS)

# The toolchain of everything that stable Rust has not: sanitizers, and Miri. A pinned day, so that today's commit passes tomorrow.
NIGHTLY := nightly-2026-05-20

tsan: ## the core's threads under ThreadSanitizer, and planted races that it must find
	@$(call need,rustup,rustup for a nightly toolchain,install Rust with rustup)
	$(call system,cc:gcc c++:g++ cmake:cmake)
	@$(call need,$(PYTHON),Python 3.11 or later,install it or name it with make PYTHON=...)
	@[ -d "$$(rustc +$(NIGHTLY) --print sysroot 2>/dev/null)/lib/rustlib/src" ] || \
		rustup toolchain install $(NIGHTLY) --profile minimal --component rust-src
	RUSTUP_TOOLCHAIN=$(NIGHTLY) $(PYTHON) rust/tsan/tsan.py $(ARGS)

free-threaded: ## the native module without a GIL: CPython 3.13t from Debian's sources, and its tests; FREE_THREADED_PYTHON=python3.14t for another
	@$(call need,cargo,a Rust toolchain,install Rust $(RUST) or later with rustup or your system's packages)
	@$(call need,$(PYTHON),Python 3.11 or later,install it or name it with make PYTHON=...)
	$(PYTHON) rust/free-threaded/free_threaded.py $(FREE_THREADED_PYTHON:%=--python %) $(ARGS)

ifndef FREE_THREADED_PYTHON
free-threaded: .stamps/free-threaded/packages
endif
.stamps/free-threaded/packages: | .stamps
	$(call system,apt-get:apt cc:gcc xz:xz-utils, \
		[ -e /usr/include/openssl/ssl.h ] || missing="$$missing libssl-dev"; \
		[ -e /usr/include/zlib.h ] || missing="$$missing zlib1g-dev"; \
		ls /usr/include/ffi.h /usr/include/*/ffi.h >/dev/null 2>&1 || missing="$$missing libffi-dev";)
	@mkdir -p $(@D) && touch $@

# Changes in the core that a test must notice. The long form takes hours; CI tries a part of the mutants.
CARGO_MUTANTS := 27.1.0

.stamps/cargo-mutants-$(CARGO_MUTANTS)/bin/cargo-mutants: | .stamps
	cargo install --quiet --locked --version =$(CARGO_MUTANTS) --root .stamps/cargo-mutants-$(CARGO_MUTANTS) cargo-mutants

mutants: .stamps/cargo-mutants-$(CARGO_MUTANTS)/bin/cargo-mutants ## changes the core in one place at a time: a test must fail. Hours; FILES=wire for a part, SINCE=HEAD~20 SAMPLE=8 for a change
	PATH="$(CURDIR)/$(<D):$$PATH" $(PYTHON) rust/mutants/mutants.py $(if $(FILES),--files $(FILES)) \
		$(if $(SINCE),--since $(SINCE)) $(if $(SAMPLE),--sample $(SAMPLE)) $(ARGS)

ifeq ($(NAME),package)
coverage: .stamps/coverage
	$(BIN)/python rust/coverage/package.py $(ARGS)
else
coverage: ## which code of the core its tests run, and that whatever they do not run is named with a reason; NAME=package for the Python package, in ten minutes
	@$(call need,cargo,a Rust toolchain,install Rust $(RUST) or later with rustup or your system's packages)
	@$(call need,$(PYTHON),Python 3.11 or later,install it or name it with make PYTHON=...)
	@[ -x "$$(rustc --print target-libdir)/../bin/llvm-cov" ] || rustup component add llvm-tools || \
		{ echo "make coverage needs llvm-cov: rustup component add llvm-tools" >&2; exit 1; }
	$(PYTHON) rust/coverage/measure.py $(ARGS)
endif

.stamps/coverage: requirements/coverage.txt .stamps/build
	$(BIN)/python $(PIP_INSTALL) -r requirements/coverage.txt
	@touch $@

loom: PREEMPTIONS := 2
loom: ## models of the core's threads in every order; PREEMPTIONS=3 for more orders. Fails if one of them does
	@$(call need,cargo,a Rust toolchain,install Rust $(RUST) or later with rustup or your system's packages)
	@$(call need,$(PYTHON),Python 3.11 or later,install it or name it with make PYTHON=...)
	$(PYTHON) rust/models/loom.py --preemptions $(PREEMPTIONS) $(ARGS)

miri: ## unit tests of the core in Miri, which stops at undefined behaviour. Fails if it finds some
	@$(call need,rustup,rustup for the toolchain of Miri,install it from rustup.rs; Rust of a system package has no nightly)
	@$(call need,$(PYTHON),Python 3.11 or later,install it or name it with make PYTHON=...)
	@rustup component list --toolchain $(NIGHTLY) --installed 2>/dev/null | grep -q '^miri' || \
		rustup toolchain install $(NIGHTLY) --profile minimal --component miri,rust-src --no-self-update
	RUSTUP_TOOLCHAIN=$(NIGHTLY) $(PYTHON) rust/models/miri.py $(ARGS)
