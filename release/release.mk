# What is published, and what must hold before it is. RELEASING.md has the steps.

# The built files that make release-check judges.
FILES ?= $(wildcard dist/*)

.PHONY: deny licences release-check wheels wheels-twice wheels-test

RELEASE := .stamps/release/bin
TARGETS := x86_64-unknown-linux-gnu x86_64-unknown-linux-musl aarch64-unknown-linux-gnu aarch64-unknown-linux-musl sdist
PLACES := native glibc musl sdist aarch64

licences: .stamps/release/stamp ## LICENSE-THIRD-PARTY and the bill of materials, from Cargo.lock; ARGS=--check fails if they are stale
	@$(call need,cargo,a Rust toolchain,install Rust $(RUST) or later with rustup or your system's packages)
	$(RELEASE)/python release/licences.py $(ARGS)

wheels: .stamps/release/stamp ## wheels and sdist into dist, with zig; TARGETS="x86_64-unknown-linux-gnu sdist" for some
	@$(call need,cargo,a Rust toolchain,install Rust $(RUST) or later with rustup or your system's packages)
	@$(call need,cc,a C compiler,on Debian and Ubuntu install gcc; on macOS run xcode-select --install)
	$(RELEASE)/python release/licences.py --check
	$(RELEASE)/python release/wheels.py $(ARGS) $(TARGETS)

wheels-twice: ARGS := --twice
wheels-twice: wheels ## the same, twice in two folders: the bytes must be equal

.stamps/release/stamp: requirements/release.txt | .stamps
	$(call venv,.stamps/release,$(PYTHON))
	.stamps/release/bin/python $(PIP_INSTALL) --requirement $<
	@touch $@

# The places with a root of their own are made from Debian's packages.
wheels-test: .stamps/release/stamp $(UV) ## install the wheels where they have to work, and run the core's tests there; PLACES="native glibc musl sdist aarch64"
	$(if $(filter glibc musl aarch64,$(PLACES)),$(call system,mmdebstrap:mmdebstrap gcc:gcc $(PLACES:%=$(PLACE_%))))
	$(RELEASE)/python release/try_wheels.py $(PLACES)

PLACE_musl := musl-gcc:musl-tools
PLACE_aarch64 := qemu-aarch64-static:qemu-user-static

release-check: .stamps/build .stamps/release/stamp ## whether dist may be published; FILES="downloads/*" for others. ARGS="--tag v1.2.3 --complete" for a release
	$(call system,git:git)
	$(BIN)/python -m mypy.stubtest frameseal._native
	$(RELEASE)/python release/check.py --built "$$($(BIN)/python -c 'import frameseal; print(frameseal.__version__)')" \
		$(ARGS) $(FILES)
	@echo "left to make docs: the documents and their code. Left to make wheels: LICENSE-THIRD-PARTY against Cargo.lock"

CARGO_DENY := 0.20.2

deny: .stamps/cargo-deny/$(CARGO_DENY) ## licences, sources and banned crates; ARGS=--advisories compares them with RustSec too
	@$(call need,$(PYTHON),Python 3.11 or later,install it or name it with make PYTHON=...)
	$(call system,git:git)
	$(PYTHON) release/deny.py --command "$(CURDIR)/.stamps/cargo-deny/bin/cargo-deny" $(ARGS)

.stamps/cargo-deny/$(CARGO_DENY):
	@$(call need,cargo,a Rust toolchain,install Rust $(RUST) or later with rustup or your system's packages)
	@$(call need,cc,a C compiler,on Debian and Ubuntu install gcc; on macOS run xcode-select --install)
	cargo install --quiet --locked --version $(CARGO_DENY) --root .stamps/cargo-deny cargo-deny
	@touch $@
