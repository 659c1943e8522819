# Tools are built or installed once, outside the checkout, in a directory named by what they are made from.
CACHE := $(abspath $(or $(CHANGEOVER_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/changeover))
TOOLS := $(CACHE)/tools/$(shell cat infra/requirements*.txt infra/actionlint/go.sum | git hash-object --stdin)
# The lock names every package, so nothing is left to resolve.
INSTALL := $(TOOLS)/bin/pip install --quiet --disable-pip-version-check --require-hashes --no-deps
CARGO_DENY := $(CACHE)/cargo-deny/0.20.2
CFN_GUARD := $(CACHE)/cfn-guard/3.2.1
TEMPLATES := template.yaml infra/eks-access.yaml infra/pipeline.yaml infra/token.yaml

# Without it every sam command reports its use.
export SAM_CLI_TELEMETRY := 0

.PHONY: demo test planted planted-check lint bench build deploy remove

# Rotates a token under load on real parts, and counts refused requests; KEEP=1 leaves it running to look around.
demo:
	tests/testbed/run demo $(if $(KEEP),--keep)

# Every test, on the real parts. The function under test is the one that the tests' own build brings: one build, not two.
test:
	cargo test --locked --no-run
	tests/testbed/run with --rotator $(or $(CARGO_TARGET_DIR),target)/debug/rotator -- \
		sh -c 'cargo test --locked && python -m pytest tests/testbed'

# Plants every mistake of tests/planted, one at a time, and fails unless a test catches each; a quarter of an hour on two cores.
planted:
	CHANGEOVER_CACHE=$(CACHE) tests/planted/run

# Whether each of them can still be planted; builds nothing.
planted-check:
	python3 -B -m unittest discover --quiet --start-directory tests/planted
	tests/planted/run --check

# Formatting, lints, licences and sources of dependencies, templates, manifests and scripts.
lint: planted-check $(TOOLS)/complete $(CARGO_DENY)/bin/cargo-deny $(CFN_GUARD)/bin/cfn-guard
	cargo fmt --check
	cargo clippy --locked --all-targets -- --deny warnings
	$(CARGO_DENY)/bin/cargo-deny --locked check bans licenses sources
	$(TOOLS)/bin/sam validate --lint --region us-east-1 --template template.yaml
	$(TOOLS)/bin/cfn-lint $(TEMPLATES)
	@# What the rules must refuse; told only where they do not.
	@$(CFN_GUARD)/bin/cfn-guard test --rules-file infra/guard/changeover.guard --test-data infra/guard/tests.yaml \
		> $(CFN_GUARD)/tests.log || { cat $(CFN_GUARD)/tests.log; exit 1; }
	$(CFN_GUARD)/bin/cfn-guard validate --rules infra/guard/changeover.guard $(TEMPLATES:%=--data %)
	$(TOOLS)/bin/yamllint --strict --config-file .yamllint .
	$(TOOLS)/bin/shellcheck .ci/run infra/github-action/*.sh
	PATH="$(TOOLS)/bin:$$PATH" actionlint
	@# An example is checked as it will lie in a repository: beside a checkout of changeover, whose inputs it has to name.
	rm -rf $(TOOLS)/example && mkdir -p $(TOOLS)/example/.git $(TOOLS)/example/.github/workflows
	ln -s $(CURDIR) $(TOOLS)/example/changeover
	cp infra/github-action/example-workflow.yml $(TOOLS)/example/.github/workflows/
	cd $(TOOLS)/example && PATH="$(TOOLS)/bin:$$PATH" actionlint
	@# The database of advisories is on a git host, which not every network reaches.
	@if timeout 120 $(CARGO_DENY)/bin/cargo-deny fetch db 2> /dev/null; \
		then $(CARGO_DENY)/bin/cargo-deny --locked check --disable-fetch advisories; \
		else echo 'lint: advisories NOT checked: their database cannot be fetched from here'; fi

# Size, start and calls of a rotation, how soon a rollout is told, and how rotations by hand fare beside it. The function is
# measured as it is deployed.
bench:
	cargo bench --locked --no-default-features --bench startup
	tests/testbed/run with -- cargo bench --locked --no-default-features --bench rollouts
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
