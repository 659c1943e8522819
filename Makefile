# Tools are built or installed once, outside the checkout, in a directory named by what they are made from.
CACHE := $(abspath $(or $(CHANGEOVER_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/changeover))
TOOLS := $(CACHE)/tools/$(shell cat infra/requirements*.txt infra/actionlint/go.sum | git hash-object --stdin)
# The lock names every package, so nothing is left to resolve.
INSTALL := $(TOOLS)/bin/pip install --quiet --disable-pip-version-check --require-hashes --no-deps
CARGO_DENY := $(CACHE)/cargo-deny/0.20.2
CFN_GUARD := $(CACHE)/cfn-guard/3.2.1
TEMPLATES := template.yaml infra/eks-access.yaml infra/pipeline.yaml infra/token.yaml
# What is checked again only if one of these files has changed since it passed.
ONCE := tests/once $(CACHE)/passed
TIMED := tests/timed

# Without it every sam command reports its use.
export SAM_CLI_TELEMETRY := 0
# By this text tests draw the samples of what they could try exhaustively; `all` tries everything.
CHANGEOVER_SAMPLE ?= $(shell git rev-parse HEAD)
export CHANGEOVER_SAMPLE

.DEFAULT_GOAL := help
.PHONY: help demo demo-cluster check test verify lint unit-tests planted bench build deploy remove \
	lint-rust lint-others lint-dependencies lint-templates lint-scripts check-rust planted-check

help:
	@echo 'See it work:'
	@echo '  make demo          three rotations under load, on an emulated AWS account: 6 minutes the first time, then 1'
	@echo '  make demo-cluster  the same with Kubernetes and External Secrets: 15 minutes the first time, then 2'
	@echo '                     KEEP=1 leaves either running to look around'
	@echo 'Prove it:'
	@echo '  make check         formatting, lints and every test that needs no testbed: 2 minutes; before each commit'
	@echo '  make test          every promise, on the real parts; a sample of what is exhaustive: 15 minutes; before each merge'
	@echo '  make verify        everything exhaustively, and every planted mistake: hours; each night and before a release'
	@echo '  make bench         size, start and calls of a rotation, and rotations by hand beside it'
	@echo 'Run it:'
	@echo '  make deploy        builds and deploys the stack of template.yaml; asks for its parameters the first time'
	@echo '  make remove        takes the stack out; its table and its keys stay'

# Three rotations of a token under load, on the emulated account alone, with every request counted.
demo:
	tests/testbed/run demo $(if $(KEEP),--keep)

# The same beside a real control plane, where the token reaches pods through External Secrets and rollouts.
demo-cluster:
	tests/testbed/run demo-cluster $(if $(KEEP),--keep)

# What needs no testbed. The templates are looked at beside the compiler, which seldom keeps both cores busy.
check: export CHANGEOVER_SAMPLE = few, drawn by $(shell git rev-parse HEAD)
check:
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target lint-others check-rust

# One after the other: what is quick to fail comes first, and Cargo does one thing at a time.
check-rust:
	@$(MAKE) --no-print-directory lint-rust
	@$(MAKE) --no-print-directory unit-tests

lint-others: planted-check lint-dependencies lint-templates lint-scripts

unit-tests:
	$(TIMED) unit-test-build cargo test --locked --workspace --no-run
	$(TIMED) unit-tests tests/rust

# Every promise, on the real parts. The function under test is the one that the tests' own build brings: one build, not two.
test: $(TOOLS)/can-build
	$(TIMED) test-build cargo test --locked --workspace --no-run
	CHANGEOVER_CACHE=$(CACHE) tests/testbed/run test --rotator $(or $(CARGO_TARGET_DIR),target)/debug/rotator

# Everything that `make test` draws a sample of: all kills, all faults, 20,000 worlds, the model with three actors at once, the
# build by SAM and by cargo-lambda, Terraform, a minute of rotations, a kubelet's own pauses; and every planted mistake.
verify: export CHANGEOVER_SAMPLE = all
verify: export TESTBED_BACK_OFF_SECONDS = 10
verify: lint test planted

# Plants every mistake of tests/planted, one at a time, and fails unless a test catches each; half an hour on two cores.
planted:
	CHANGEOVER_CACHE=$(CACHE) tests/planted/run

# Checks that each of them can still be planted; builds nothing.
planted-check:
	@python3 -B -m unittest discover --quiet --start-directory tests/planted
	tests/planted/run --check

# Formatting, lints, licences and sources of dependencies, templates, manifests and scripts.
lint: lint-others lint-rust

lint-rust:
	$(TIMED) fmt cargo fmt --all --check
	$(TIMED) clippy cargo clippy --locked --workspace --all-targets -- --deny warnings

lint-dependencies: $(CARGO_DENY)/bin/cargo-deny
	$(TIMED) deny $(ONCE) Cargo.toml Cargo.lock crates/*/Cargo.toml deny.toml -- $(CARGO_DENY)/bin/cargo-deny --locked check bans licenses sources
	@# The database of advisories is on a git host, which not every network reaches.
	@if timeout 120 $(CARGO_DENY)/bin/cargo-deny fetch db 2> /dev/null; \
		then $(CARGO_DENY)/bin/cargo-deny --locked check --disable-fetch advisories; \
		else echo 'lint: advisories NOT checked: their database cannot be fetched from here'; fi

lint-templates: $(TOOLS)/complete $(CFN_GUARD)/bin/cfn-guard
	$(TIMED) sam-validate $(ONCE) template.yaml -- \
		$(TOOLS)/bin/sam validate --lint --region us-east-1 --template template.yaml
	$(TIMED) cfn-lint $(ONCE) $(TEMPLATES) -- $(TOOLS)/bin/cfn-lint $(TEMPLATES)
	@# What the rules must refuse; printed only if they do not.
	@$(CFN_GUARD)/bin/cfn-guard test --rules-file infra/guard/changeover.guard --test-data infra/guard/tests.yaml \
		> $(CFN_GUARD)/tests.log || { cat $(CFN_GUARD)/tests.log; exit 1; }
	$(TIMED) cfn-guard $(CFN_GUARD)/bin/cfn-guard validate --rules infra/guard/changeover.guard $(TEMPLATES:%=--data %)

lint-scripts: $(TOOLS)/complete
	$(TIMED) yamllint $(ONCE) . -- $(TOOLS)/bin/yamllint --strict --config-file .yamllint .
	$(TOOLS)/bin/shellcheck .ci/run tests/once tests/timed infra/github-action/*.sh
	PATH="$(TOOLS)/bin:$$PATH" actionlint
	@# An example is checked as it will lie in a repository: beside a checkout of changeover, whose inputs it has to name.
	rm -rf $(TOOLS)/example && mkdir -p $(TOOLS)/example/.git $(TOOLS)/example/.github/workflows
	ln -s $(CURDIR) $(TOOLS)/example/changeover
	cp infra/github-action/example-workflow.yml $(TOOLS)/example/.github/workflows/
	cd $(TOOLS)/example && PATH="$(TOOLS)/bin:$$PATH" actionlint

# Size, start and calls of a rotation, how soon a rollout is seen, and how rotations by hand fare beside it. The function is
# measured as it is deployed.
bench:
	cargo bench --locked --bench startup
	tests/testbed/run with -- cargo bench --locked --bench rollouts
	tests/testbed/run compare

# The processor to build for: ARCHITECTURE=x86_64, else the one that was deployed before, else template.yaml's own.
ARCHITECTURE ?= $(shell sed -n 's/.*Architecture=\\"\([a-z0-9_]*\).*/\1/p' samconfig.toml 2> /dev/null)
BUILT_FOR = $(if $(ARCHITECTURE),--parameter-overrides Architecture=$(ARCHITECTURE))

# The function as it is deployed: release.
build: $(TOOLS)/can-build
	PATH="$(TOOLS)/bin:$$PATH" sam build --template template.yaml $(BUILT_FOR)

# The first time it asks for the parameters, and keeps them in samconfig.toml; from then on it deploys what has changed.
deploy: build
	$(TOOLS)/bin/sam deploy --capabilities CAPABILITY_IAM --no-fail-on-empty-changeset \
		$(if $(wildcard samconfig.toml),,--guided --stack-name changeover $(BUILT_FOR))

# Asks, then deletes the stack that samconfig.toml names. Its table and its keys stay.
remove: $(TOOLS)/complete
	$(TOOLS)/bin/sam delete

# The marker is the last thing made, so that an interrupted installation begins anew. What it is made from is in its name: a
# new clone's files are younger than it, and the same.
$(TOOLS)/complete:
	rm -rf $(TOOLS)
	python3 -m venv $(TOOLS)
	$(INSTALL) --requirement infra/requirements.txt
	cd infra/actionlint && PATH="$(TOOLS)/bin:$$PATH" GOTOOLCHAIN=local GOFLAGS=-mod=readonly \
		go build -trimpath -o $(TOOLS)/bin/actionlint github.com/rhysd/actionlint/cmd/actionlint
	touch $@

# cargo-lambda and zig, which only a build needs.
$(TOOLS)/can-build: | $(TOOLS)/complete
	$(INSTALL) --requirement infra/requirements-build.txt
	touch $@

# Each in a target directory of its own: they share nothing with the project.
$(CARGO_DENY)/bin/cargo-deny $(CFN_GUARD)/bin/cfn-guard: ROOT = $(patsubst %/bin/,%,$(dir $@))
$(CARGO_DENY)/bin/cargo-deny $(CFN_GUARD)/bin/cfn-guard:
	CARGO_TARGET_DIR=$(ROOT)/target cargo install --locked --version $(notdir $(ROOT)) --root $(ROOT) $(notdir $@)
	rm -rf $(ROOT)/target
