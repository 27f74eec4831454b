# Evidence about the core beyond its tests. docs/assurance.md says what each command shows, and what it does not.

.PHONY: fuzz ctgrind

fuzz: SECONDS := 600
fuzz: ## random input for the core, ten minutes for all targets; SECONDS=60 for less. Fails if one finds something
	@$(call need,cargo,a Rust toolchain,install Rust $(RUST) or later with rustup or your system's packages)
	@$(call need,c++,a C++ compiler to fuzz,on Debian and Ubuntu install g++; on macOS run xcode-select --install)
	@$(call need,$(PYTHON),Python 3.11 or later,install it or name it with make PYTHON=...)
	$(PYTHON) rust/fuzz/run.py --seconds $(SECONDS) $(ARGS)

ctgrind: ## the core's operations on secrets under valgrind: a branch on a secret fails, and leaks on purpose must show
	@$(call need,cargo,a Rust toolchain,install Rust $(RUST) or later with rustup or your system's packages)
	@$(call need,cc,a C compiler,on Debian and Ubuntu install gcc)
	@$(call need,$(PYTHON),Python 3.11 or later,install it or name it with make PYTHON=...)
	$(call system,valgrind:valgrind)
	$(PYTHON) rust/ctgrind/run.py $(ARGS)
