# The commands of this repository. `make` alone lists them.

.DEFAULT_GOAL := help
.PHONY: help run test test-full lint fmt bench bench-pool bench-limiter bench-instructions bench-mission fuzz

# Tools for the checks are installed here, outside the clone.
CACHE := $(or $(KEYPOOL_CACHE),$(HOME)/.cache/keypool)
TARGET := $(or $(CARGO_TARGET_DIR),target)
DENY_VERSION := 0.20.2
DENY := $(CACHE)/cargo-deny-$(DENY_VERSION)/bin/cargo-deny
# Further arguments: for keypool (`make run`), for cargo test (`make test`), for the program behind each `make bench…`.
ARGS ?=
# For `make fuzz`: part of the names of the targets to run, and the number of inputs for each.
FUZZ ?=
RUNS ?= 1000000

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

run: ## build and serve on http://127.0.0.1:8080 (without keys: the demo); passes ARGS="…" on
	@echo "==> building keypool (the first time takes three to five minutes)"
	@cargo build --locked --release --package keypool
	@exec "$(TARGET)/release/keypool" serve --or-demo $(ARGS)

test: ## install what the tests need, then run all tests
	@KEYPOOL_CACHE="$(CACHE)" tests/servers/install
	@status=0; \
	echo "==> Rust: unit, property, simulation and end-to-end tests, and the tidy rules"; \
	KEYPOOL_CACHE="$(CACHE)" cargo test --locked --workspace --no-fail-fast $(ARGS) || status=1; \
	echo "==> Python: the figures of the benchmarks"; \
	python3 -m unittest discover --start-directory bench || status=1; \
	echo "==> Python: the official SDKs against the gateway"; \
	cargo build --locked --workspace --bins && KEYPOOL_CACHE="$(CACHE)" tests/sdk/run "$(TARGET)/debug" || status=1; \
	echo "==> Python: schemathesis calls every operation of the admin API"; \
	KEYPOOL_CACHE="$(CACHE)" tests/api/run "$(TARGET)/debug" || status=1; \
	exit $$status

test-full: test ## the same, then the long runs: 10^8 random calls in memory, 10^6 on Redis, 900 simulated schedules
	@echo "==> Rust: long random runs of limits"
	@KEYPOOL_LONG=1 KEYPOOL_CACHE="$(CACHE)" cargo test --locked --release --package keypool-core --lib limit::tests::traces
	@KEYPOOL_LONG=1 KEYPOOL_CACHE="$(CACHE)" cargo test --locked --release --package keypool-backends --lib simulation
	@KEYPOOL_LONG=1 KEYPOOL_CACHE="$(CACHE)" cargo test --locked --release --package keypool-backends --test limiter traces

lint: $(DENY) ## formatting, lints, licences and sources of dependencies, syntax of scripts
	@echo "==> rustfmt"
	@cargo fmt --all --check
	@echo "==> clippy"
	@cargo clippy --locked --workspace --all-targets -- --deny warnings
	@echo "==> cargo-deny: licences, sources, banned crates"
	@"$(DENY)" --locked --log-level error check bans licenses sources
	@echo "==> syntax of scripts"
	@bash -n .ci/run
	@sh -n tests/sdk/run
	@sh -n tests/api/run
	@sh -n tests/servers/install
	@sh -n tests/fuzz/run
	@find bench tests -name '*.py' -exec python3 -c 'import ast, sys; [ast.parse(open(f, encoding="utf-8").read(), f) for f in sys.argv[1:]]' {} +

bench: ## measure the gateway beside nginx and write bench/RESULTS.md; ARGS="--quick", ARGS="small dense"
	@cargo build --locked --release --package keypool --package keypool-testkit
	@python3 bench/run.py --binaries "$(TARGET)/release" $(ARGS)

bench-instructions: ## count instructions per request with 1 key and with 10,000 (valgrind)
	@$(MAKE) --no-print-directory bench ARGS="instructions $(ARGS)"

bench-mission: ## measure what several keys gain and whether limits hold, beside what was promised; ARGS="A B", ARGS=--full-time
	@cargo build --locked --release --package keypool --package keypool-testkit
	@python3 bench/mission.py --binaries "$(TARGET)/release" $(ARGS)

bench-pool: ## measure choosing a key in pools of 1, 20 and 10,000 keys
	@cargo bench --locked --package keypool-core $(ARGS)

bench-limiter: ## measure deciding about limits, for one key and for a million
	@cargo bench --locked --package keypool-backends $(ARGS)

fuzz: ## search for inputs that break the parsers; FUZZ="json" selects targets, RUNS="10000000" the number of inputs
	@KEYPOOL_CACHE="$(CACHE)" tests/fuzz/run "$(FUZZ)" "$(RUNS)"

fmt: ## format the Rust code
	@cargo fmt --all

$(DENY):
	@echo "==> installing cargo-deny $(DENY_VERSION) in $(CACHE) (once, about a minute)"
	@CARGO_PROFILE_DEV_DEBUG=0 CARGO_PROFILE_DEV_STRIP=symbols cargo install --quiet --locked --debug \
		--no-default-features --version $(DENY_VERSION) --root "$(CACHE)/cargo-deny-$(DENY_VERSION)" \
		--target-dir "$(CACHE)/cargo-deny-build" cargo-deny
	@rm -rf "$(CACHE)/cargo-deny-build"
