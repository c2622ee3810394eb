# paceline. On a fresh machine with Go and make:
#   make run     builds and serves the built-in pair and prints a curl line
#   make test    installs what the tests need and passes all of them
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

GO ?= go
VERSION ?= $(shell git describe --always --dirty --tags 2>/dev/null || echo dev)
LDFLAGS := -s -w -X main.version=$(VERSION)
# Tools are pinned, fetched through the Go proxy and kept outside the tree.
LINT_VERSION := v2.15.0
TOOLS ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/paceline/tools
LINT := $(TOOLS)/golangci-lint-$(LINT_VERSION)
FUZZTIME ?= 10s
FLAGS ?=
RACEFLAGS ?=

.PHONY: run build test race check lint fuzz bench e2e clean

run: build
	bin/paceline serve $(FLAGS)

build:
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/paceline ./cmd/paceline

test:
	$(GO) mod download
	$(GO) test ./...

# The race detector needs a C compiler.
race:
	@command -v "$$($(GO) env CC)" >/dev/null || { apt-get update -q && apt-get install -qy gcc libc6-dev; }
	CGO_ENABLED=1 $(GO) test -race $(RACEFLAGS) ./...

check:
	@unformatted=$$(gofmt -l .); if [ -n "$$unformatted" ]; then echo "gofmt wants: $$unformatted"; exit 1; fi
	$(GO) vet ./...
	$(GO) mod tidy -diff
	$(GO) mod verify
	$(MAKE) lint

lint: $(LINT)
	$(LINT) run ./...

$(LINT):
	mkdir -p $(TOOLS)
	GOBIN=$(TOOLS) GOFLAGS= $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(LINT_VERSION)
	mv $(TOOLS)/golangci-lint $(LINT)

# Every fuzz target for FUZZTIME each; a crasher is written to its testdata/fuzz.
fuzz:
	@for package in $$($(GO) list ./...); do \
	  for target in $$($(GO) test -list '^Fuzz' $$package | grep '^Fuzz' || true); do \
	    echo "fuzz $$package $$target"; \
	    $(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) $$package; \
	  done; \
	done

# The figures of the README: the built-in pair end to end, losslessness and load
# at full size, then the parts.
bench: build
	bin/paceline bench $(FLAGS)
	PACELINE_DRAWS=20000 PACELINE_SOAK=60s $(GO) test -count=1 -v -run 'GreedyAnswers|SampledAnswers|ManyStreams' ./proxy/pair
	$(GO) test -p 1 -run '^$$' -bench . -benchmem ./... # one package at a time

e2e: build
	e2e/run

clean:
	rm -rf bin dist out
