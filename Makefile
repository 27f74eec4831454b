# What a clone needs: Python 3.11 or later, a Rust toolchain and a C compiler. Everything else goes into .venv, from the
# locked list in requirements/dev.txt. Each step leaves a stamp in .stamps/, so that a second run starts at once.
#   ARGS   more arguments for the command of demo, test, test-oldest, test-newest or bench: make demo ARGS="--codec h264"
#   PYTHON the interpreter that .venv is made with; OLDEST_PYTHON the one for test-oldest (3.11 or 3.12);
#          NEWEST_PYTHON the one for test-newest (from 3.12 on, newest.txt has newer versions)
#   NAME   one framework of `make frameworks`; LOCKS the files that `make lock` resolves, all without it

PYTHON ?= python3
OLDEST_PYTHON ?= $(PYTHON)
NEWEST_PYTHON ?= $(PYTHON)
ARGS ?=

# Where rustup puts cargo, for shells that were open while it was installed.
export PATH := $(PATH):$(HOME)/.cargo/bin

VENV := .venv
OLDEST := .venv-oldest
OLDEST_SDKS := .venv-oldest-sdks
NEWEST := .venv-newest
BIN := $(VENV)/bin
WERIFT := .stamps/werift/node_modules/.package-lock.json
LIVEKIT := .stamps/livekit/livekit-server
LIVEKIT_CLIENT := .stamps/livekit-client/node_modules/.package-lock.json
MERMAID := .stamps/mermaid/node_modules/.package-lock.json
SITE := target/site/index.html
SECONDS := 1800
FRAMEWORKS := $(basename $(notdir $(wildcard requirements/frameworks/*.in)))
LOCKS := dev oldest oldest-sdks newest interop fuzz coverage free-threaded release wheels docs $(FRAMEWORKS:%=frameworks/%)
UV := .stamps/uv/bin/uv
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check --require-hashes

RUST := $(shell sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)

# What the native module is made from; tests and benches are not.
NATIVE_SOURCES := $(shell find rust/core/src rust/python/src -name '*.rs') \
	Cargo.toml Cargo.lock rust/core/Cargo.toml rust/python/Cargo.toml pyproject.toml

# The sources of the site.
SITE_SOURCES := $(wildcard *.md) $(shell find docs examples benches tests/vectors python/frameseal rust/core/src -type f \
	-not -name '*.pyc' -not -name '*.so' -not -name '*.pyd')

# A module that somebody removed by hand is built again.
$(if $(wildcard python/frameseal/_native*.so python/frameseal/_native*.pyd),,$(shell rm -f .stamps/build))

.DELETE_ON_ERROR:
.PHONY: help demo test test-oldest test-newest interop frameworks soak check bench bench-guard docs lock clean \
	$(FRAMEWORKS:%=framework-%) $(LOCKS:%=lock/%)

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: .stamps/build ## hold a sealed call with an eavesdropper, and draw demo.png
	@$(BIN)/frameseal demo $(ARGS)

test: .stamps/build benches/floor.so ## everything: the core's tests in Rust, then the package's in Python
	cargo test --locked --package frameseal --features hazmat
	@echo "left to make interop, which needs system packages: tests/interop (Chromium, Firefox, Janus, werift, LiveKit, PostgreSQL, VLC)"
	@echo "left to make frameworks, which installs each into an environment of its own: tests/frameworks"
	@echo "left to make soak, which takes half an hour: tests/soak"
	$(BIN)/pytest -n auto --dist loadgroup $(ARGS)

# The extras of pyproject.toml whose lowest and newest versions have an environment of their own, and what tests them:
# the hook, events, the key client, the demo, the meeting, and archives. dev.txt holds the newest versions of the SDKs.
EXTRAS := aiortc keyfetch cli meet archive
SDKS := videosdk pymediasoup livekit
DEPENDENTS := tests/unit/aiortc tests/unit/archive tests/calls/test_aiortc*.py tests/unit/test_emitter.py tests/unit/test_datachannel.py \
	tests/unit/keys/test_fetch.py tests/calls/test_demo.py tests/calls/test_meet.py

test-oldest: .stamps/build .stamps/oldest .stamps/oldest-sdks ## the lowest versions that pyproject.toml allows: hook, key client, demo, meeting; then the SDKs' adapters
	FRAMESEAL_STACKS=aiortc PYTHONPATH=python $(OLDEST)/bin/python -m pytest -n 4 --dist loadgroup $(DEPENDENTS) $(ARGS)
	PYTHONPATH=python $(OLDEST_SDKS)/bin/python -m pytest -n 4 --dist loadgroup tests/unit/test_livekit.py \
		tests/sdks/test_pymediasoup.py \
		$(patsubst %,tests/sdks/test_%.py,videosdk videosdk_docs videosdk_orders) $(ARGS)

test-newest: .stamps/build .stamps/newest ## the newest versions of requirements/newest.txt: hook, key client, demo, meeting
	FRAMESEAL_STACKS=aiortc PYTHONPATH=python $(NEWEST)/bin/python -m pytest -n 4 --dist loadgroup $(DEPENDENTS) $(ARGS)

interop: .stamps/build .stamps/interop $(WERIFT) $(LIVEKIT) $(LIVEKIT_CLIENT) $(SITE) ## calls with Chromium, Firefox, Janus, werift, LiveKit; keys in PostgreSQL; recordings in VLC; the site in Chromium; as root on Debian it installs them
	FRAMESEAL_INTEROP=1 FRAMESEAL_ARTEFACTS="$(CURDIR)/target/interop" $(BIN)/pytest tests/interop $(ARGS)

# The .in file of a framework may have a line "# python: 3.13", and a line "# extras: none" or "# extras: videosdk" for
# the extras of frameseal that belong to it. A line "# locked for: 3.12" is for a package whose metadata ask for a newer
# Python than its code needs: it is installed on the older one all the same. A line "# system: java:default-jre-headless"
# names a command, and Debian's package of it. $(call stated,KEY,FRAMEWORK,DEFAULT)
stated = $(or $(shell sed -n 's/^. $(1): *//p' requirements/frameworks/$(2).in),$(3))
python_of = $(call stated,python,$(1),3.11)
locked_of = $(call stated,locked for,$(1),$(call python_of,$(1)))
extras_of = $(filter-out none,$(call stated,extras,$(1),aiortc))

# The framework alone is in its environment: it must work with what it pins itself. frameseal comes from the clone.
frameworks: $(patsubst %,framework-%,$(or $(NAME),$(FRAMEWORKS))) ## calls inside the frameworks that make connections themselves, and archives in Ray and Spark, each in an environment of its own; NAME=pipecat for one

$(FRAMEWORKS:%=framework-%): framework-%: .stamps/build .stamps/frameworks/%/pyvenv.cfg
	$(call system,$(call stated,system,$*))
	FRAMESEAL_FRAMEWORK=$* FRAMESEAL_EXTRAS="$(call extras_of,$*)" FRAMESEAL_STACKS=aiortc PYTHONPATH=python \
		.stamps/frameworks/$*/bin/python -m pytest tests/frameworks/test_$*.py tests/frameworks/test_environment.py \
		-p no:cacheprovider $(ARGS)

# Two arenas for all threads: with one for each, what codecs' threads leave behind in them looks like a leak for long.
soak: .stamps/build ## half an hour of meetings in one process, in which nothing may grow; SECONDS=180 for less
	MALLOC_ARENA_MAX=2 FRAMESEAL_SOAK_SECONDS=$(SECONDS) $(BIN)/pytest tests/soak/test_soak.py -s $(ARGS)

# The feature `hazmat` (nonces of the caller's choice) is for the core's own tests. Naming the package keeps it out of
# the Python module: features of a workspace build are united.
check: .stamps/build ## format, lints, spelling, types, stub
	@cargo fmt --version >/dev/null 2>&1 && cargo clippy --version >/dev/null 2>&1 || \
		{ echo "make check needs rustfmt and clippy: rustup component add rustfmt clippy" >&2; exit 1; }
	cargo fmt --all --check
	cargo clippy --locked --package frameseal --all-targets --features hazmat -- -D warnings
	cargo clippy --locked --workspace --all-targets -- -D warnings
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/typos
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest frameseal._native

bench: .stamps/build benches/floor.so ## speed, beside its rivals, and what a call pays, in about half an hour
	cargo bench --locked --package frameseal-benches
	$(BIN)/pytest benches --benchmark-max-time=0.2 --benchmark-columns=median,iqr,ops --benchmark-sort=name --quiet
	$(BIN)/python benches/table.py $(ARGS)
	$(BIN)/python benches/batch.py
	$(BIN)/python benches/cipher.py
	$(BIN)/python benches/participants.py
	$(BIN)/python benches/latency.py
	$(BIN)/python benches/pipeline.py
	$(BIN)/python benches/rooms.py
	$(BIN)/python benches/first_picture.py
	$(BIN)/python benches/room_keys.py
	$(BIN)/python benches/archive.py
	@ray=.stamps/frameworks/ray/bin/python; test -x $$ray || ray=$(BIN)/python; \
		PYTHONPATH=python:tests $$ray benches/at_scale.py rows
	$(BIN)/python benches/size.py
	@if command -v valgrind >/dev/null; then $(BIN)/python benches/instructions.py; \
		else echo "left out, for want of valgrind (Debian and Ubuntu: apt-get install valgrind): instructions a frame"; fi

bench-guard: .stamps/build benches/floor.so ## fails if a frame has become much slower beside its rivals, or takes more instructions; as root on Debian it installs valgrind
	$(call system,valgrind:valgrind)
	$(BIN)/python benches/instructions.py --check
	$(BIN)/python benches/guard.py

docs: $(SITE) ## the site in target/site, with the references for Python and Rust, and whether documents and examples do what they say
	$(BIN)/python docs/check_site.py target/site
	$(BIN)/pytest tests/test_docs.py tests/test_examples.py tests/test_site.py $(ARGS)

# A build starts from nothing, because Sphinx does not see a change of its extensions, and keeps pages that are gone.
$(SITE): $(SITE_SOURCES) .stamps/docs $(MERMAID)
	@rm -rf target/doc target/site target/site-source target/site-doctrees
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --quiet --no-deps --package frameseal
	$(BIN)/python docs/pages.py target/site-source
	$(BIN)/python -m sphinx -q -W --jobs auto -b html -c docs -d target/site-doctrees target/site-source target/site
	cp -r target/doc target/site/rust
	echo '<!doctype html><meta http-equiv="refresh" content="0; url=frameseal/index.html"><title>frameseal</title>' >target/site/rust/index.html
	cp .stamps/mermaid/node_modules/mermaid/LICENSE target/site/_static/mermaid.LICENSE

lock: $(LOCKS:%=lock/%) ## resolve requirements/**/*.in again; LOCK=--upgrade moves to the newest versions, LOCKS=frameworks/pipecat resolves one

# A framework is resolved together with frameseal's own requirements, so that a conflict shows here.
lock/frameworks/%: WITH = requirements/frameworks.in pyproject.toml $(patsubst %,--extra %,$(call extras_of,$(notdir $*)))
lock/frameworks/%: AT = $(call locked_of,$(notdir $*))
lock/free-threaded: AT = 3.13
lock/oldest: WITH = --resolution lowest-direct pyproject.toml $(EXTRAS:%=--extra %)
lock/oldest-sdks: WITH = --resolution lowest-direct pyproject.toml $(SDKS:%=--extra %)
# The site is built in the environment of dev.txt.
lock/docs: WITH = --constraint requirements/dev.txt
lock/newest: WITH = pyproject.toml $(EXTRAS:%=--extra %)
$(LOCKS:%=lock/%): lock/%: $(UV)
	$(UV) pip compile --quiet --universal --python-version $(or $(AT),3.11) --generate-hashes --no-header \
		--no-emit-index-url --no-annotate $(LOCK) $(WITH) requirements/$*.in --output-file requirements/$*.txt

clean: ## remove what was made here, the environments too
	rm -rf $(VENV) $(OLDEST) $(OLDEST_SDKS) $(NEWEST) .stamps target dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	rm -f python/frameseal/_native*.so demo.png
	find python tests benches examples -name __pycache__ -type d -prune -exec rm -rf {} +

.stamps/interop: requirements/interop.txt .stamps/build
	$(call system,chromium:chromium firefox-esr:firefox-esr janus:janus npm:npm ip:iproute2 \
		vlc:vlc-bin vlc:vlc-plugin-base, \
		ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || missing="$$missing postgresql";)
	$(BIN)/python $(PIP_INSTALL) -r requirements/interop.txt
	@touch $@

.stamps/docs: requirements/docs.txt .stamps/build
	$(BIN)/python $(PIP_INSTALL) -r requirements/docs.txt
	@touch $@

# Installs mermaid, which draws the diagrams of the site, as its lock file says. The site has a copy of one file.
$(MERMAID): docs/mermaid/package-lock.json | .stamps
	$(call system,npm:npm)
	@mkdir -p .stamps/mermaid
	cp $(addprefix docs/mermaid/,package.json package-lock.json) .stamps/mermaid
	npm ci --prefix .stamps/mermaid --ignore-scripts --no-audit --no-fund --silent
	@touch $@

# An RTP stack for Node, of the versions and hashes in its lock file, and out of the way of what is committed.
$(WERIFT): tests/interop/werift/package-lock.json .stamps/interop
	@mkdir -p .stamps/werift
	cp $(addprefix tests/interop/werift/,package.json package-lock.json) .stamps/werift
	npm ci --prefix .stamps/werift --ignore-scripts --no-audit --no-fund --silent
	@touch $@

# LiveKit's client for browsers, likewise.
$(LIVEKIT_CLIENT): tests/interop/livekit-client/package-lock.json .stamps/interop
	@mkdir -p .stamps/livekit-client
	cp $(addprefix tests/interop/livekit-client/,package.json package-lock.json) .stamps/livekit-client
	npm ci --prefix .stamps/livekit-client --ignore-scripts --no-audit --no-fund --silent
	@touch $@

# LiveKit's server, of the versions and hashes in its lock files, from the Go module proxy. Go's cache makes it quick anew.
$(LIVEKIT): tests/interop/livekit-server/go.mod tests/interop/livekit-server/go.sum .stamps/interop
	@mkdir -p .stamps/livekit
	cd tests/interop/livekit-server && "$(abspath $(BIN))/go" build -mod=readonly -trimpath -ldflags "-s -w" \
		-o "$(CURDIR)/$@" github.com/livekit/livekit-server/cmd/server
	@touch $@

# The bare AEAD as an extension module, to measure against.
benches/floor.so: $(wildcard benches/floor/src/*.rs) benches/floor/Cargo.toml Cargo.lock
	PYO3_PYTHON=$(abspath $(BIN)/python) cargo build --quiet --locked --release --package frameseal-floor
	cp $$(ls target/release/libfloor.so target/release/libfloor.dylib 2>/dev/null) $@

# Evidence beyond the tests: fuzzing, models, sanitizers, mutants, coverage.
include rust/assurance.mk
# The files that are published: wheels, their contents, their licences.
include release/release.mk

# --- steps -----------------------------------------------------------------------------------------------------------

# $(call need,COMMAND,WHAT,FIX): one line instead of a build that fails half way.
need = command -v $(1) >/dev/null || { echo "frameseal needs $(2): $(3)" >&2; exit 1; }

# $(call system,COMMAND:PACKAGE ...,MORE): Debian's packages for commands that are not there, and for the words that MORE
# appends to "missing", are installed where that may be done, and named where not.
define system
	@missing=; for pair in $(1); do \
		command -v $${pair%%:*} >/dev/null || missing="$$missing $${pair##*:}"; done; $(2) \
	if [ -n "$$missing" ]; then \
		[ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null || \
			{ echo "this needs Debian's packages$$missing: install them, or run make as root" >&2; exit 1; }; \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing; fi
endef

# $(call venv,DIRECTORY,PYTHON)
define venv
	@$(call need,$(2),Python 3.11 or later,install it or name it with make PYTHON=...)
	@$(2) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "frameseal needs Python 3.11 or later: name one with make PYTHON=..." >&2; exit 1; }
	@$(2) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "frameseal needs Python's venv module: on Debian and Ubuntu, apt-get install python3-venv" >&2; exit 1; }
	$(2) -m venv $(1)
endef

.stamps:
	@mkdir -p $@

# Each environment is stamped by the file that marks it: removing the directory is enough to have it made anew.
$(VENV)/pyvenv.cfg:
	$(call venv,$(VENV),$(PYTHON))

$(OLDEST)/pyvenv.cfg $(OLDEST_SDKS)/pyvenv.cfg:
	@! $(OLDEST_PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 13))' 2>/dev/null || \
		{ echo "the oldest versions have wheels for Python 3.11 and 3.12: make test-oldest OLDEST_PYTHON=..." >&2; exit 1; }
	$(call venv,$(@D),$(OLDEST_PYTHON))

$(NEWEST)/pyvenv.cfg:
	$(call venv,$(@D),$(NEWEST_PYTHON))

.stamps/requirements: requirements/dev.txt $(VENV)/pyvenv.cfg | .stamps
	$(BIN)/python $(PIP_INSTALL) --requirement requirements/dev.txt
	@touch $@

.stamps/oldest .stamps/oldest-sdks .stamps/newest: .stamps/%: requirements/%.txt .venv-%/pyvenv.cfg | .stamps
	.venv-$*/bin/python $(PIP_INSTALL) --requirement $<
	@touch $@

$(UV): | .stamps
	$(call venv,.stamps/uv,$(PYTHON))
	.stamps/uv/bin/python -m pip install --quiet --disable-pip-version-check uv

# Each framework's environment is made anew when its lock file changes.
.stamps/frameworks/%/pyvenv.cfg: requirements/frameworks/%.txt | $(UV)
	$(UV) venv --quiet --clear --python $(call python_of,$*) $(@D)
	$(if $(filter $(call python_of,$*),$(call locked_of,$*)), \
		$(UV) pip install --quiet --python $(@D), \
		.stamps/uv/bin/python -m pip --python $(@D) install --quiet --disable-pip-version-check --no-deps --ignore-requires-python) \
		--require-hashes --requirement $<
	@touch $@

.stamps/build: $(NATIVE_SOURCES) .stamps/requirements | .stamps
	@$(call need,cargo,a Rust toolchain,install Rust $(RUST) or later with rustup or your system's packages)
	@rustc --version | awk -v least=$(RUST) \
		'{ split($$2, has, "."); split(least, l, "."); exit !(has[1] > l[1] || has[1] == l[1] && has[2] + 0 >= l[2]) }' || \
		{ echo "frameseal needs Rust $(RUST) or later, and here is $$(rustc --version): rustup update stable" >&2; exit 1; }
	@$(call need,cc,a C compiler,on Debian and Ubuntu install gcc; on macOS run xcode-select --install)
	env -u CONDA_PREFIX VIRTUAL_ENV="$(CURDIR)/$(VENV)" $(BIN)/maturin develop --release --locked --quiet
	@touch $@
