# Antiphon. `make sim` shows it working, `make test` proves it.

GO      ?= go
BIN     := bin
DAEMONS := antiphon antiphond antiphon-device antiphon-shim

.DEFAULT_GOAL := help
.PHONY: help build setup sim test check generate generate-check diff soak fuzz bench clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1	\2/p' $(MAKEFILE_LIST) | expand -t 18

build: ## build the four programs into ./bin
	@mkdir -p $(BIN)
	CGO_ENABLED=0 $(GO) build -trimpath -o $(BIN)/ $(addprefix ./cmd/,$(DAEMONS))

setup: ## install the tools that tests use (as root; otherwise says what is left out)
	@sh internal/setup/deps.sh

sim: build setup ## run the demonstration: a routed network, real traffic, compared counters
	$(BIN)/antiphon sim demo

test: build setup ## run every test; counts skips with their reasons
	$(GO) run ./internal/testrun -race ./agent,./hostshim,./transport ./...

check: generate-check ## formatting, vet, house rules, generated code
	@files=$$(gofmt -l .); test -z "$$files" || { echo "gofmt needed: $$files" >&2; exit 1; }
	$(GO) vet ./...
	$(GO) test -count=1 ./internal/archtest

generate: ## write generated code anew (protoc, clang)
	$(GO) generate ./...

generate-check: ## generated code is what its sources say
	@sh internal/setup/generate-check.sh

CONFIGS ?= 2000
diff: build setup ## the differential lab: kernel, softpipe and refpipe must agree, on CONFIGS (2000) random configurations too
	$(GO) test -count=1 -v -timeout 2h ./internal/difflab -configs $(CONFIGS)

SOAK ?= 60s
soak: build setup ## keep neighbours alive by traffic in the device alone for SOAK (default 60s)
	$(GO) test -count=1 -v -run TestLiveness ./internal/e2e -soak $(SOAK)

FUZZTIME ?= 20s
fuzz: ## run every fuzz target for FUZZTIME (default 20s)
	@sh internal/setup/fuzz.sh $(FUZZTIME)

bench: build ## measure against references in the same run; fails below a floor
	$(GO) run ./internal/bench

clean: ## remove what make built
	rm -rf $(BIN)
