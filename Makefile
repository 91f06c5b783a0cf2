# The verbs of this repository, the same by hand and in CI. Each does its own set-up.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help run test faults check bench fuzz rules fmt clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-7s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: ## Build, play the sample incident and leave the service running; TRANSPORT=kafka, PORT=, DATA=
	@TRANSPORT='$(TRANSPORT)' PORT='$(PORT)' DATA='$(DATA)' scripts/run

test: ## Everything: Rust tests, Kafka, and the real clients
	@scripts/test

faults: ## Inject errors, kills and power cuts by the thousands; FAULTS=10000 of each kind
	@FAULTS='$(FAULTS)' scripts/faults

check: ## Format, lints, contract builds, licences, documentation
	@scripts/check

bench: ## Benches on an optimised build; BENCH='respond --count 200' for one of them
	@scripts/bench $(BENCH)

fuzz: ## Search for inputs that break a parser, TIME= seconds for each target; FUZZ=policy for one of them
	@TIME='$(TIME)' scripts/fuzz $(FUZZ)

rules: ## Every rule's own tests
	cargo run -q -- rules test rules

fmt: ## Format all Rust code
	cargo fmt --all

clean: ## Remove this clone's build and demo folders; caches stay
	cargo clean
	rm -rf demo-data
