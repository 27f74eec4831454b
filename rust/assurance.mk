# Evidence about the core beyond its tests. docs/assurance.md says what each command shows, and what it does not.

.PHONY: fuzz

fuzz: SECONDS := 600
fuzz: ## random input for the core, ten minutes for all targets; SECONDS=60 for less. Fails if one finds something
	@$(call need,cargo,a Rust toolchain,install Rust $(RUST) or later with rustup or your system's packages)
	@$(call need,c++,a C++ compiler to fuzz,on Debian and Ubuntu install g++; on macOS run xcode-select --install)
	@$(call need,$(PYTHON),Python 3.11 or later,install it or name it with make PYTHON=...)
	$(PYTHON) rust/fuzz/run.py --seconds $(SECONDS) $(ARGS)
