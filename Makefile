# One-line aliases; `make help` lists them. INVENTORY=file and ANSIBLE_ARGS="..." are passed on to ansible-playbook.
# MATRIX=file is for probe-suite, COMPARE=latest (or a kept JSON file) for probe-suite and benchmark.
# Without an inventory.yaml of yours, this machine serves a smoke model.
INVENTORY ?= $(firstword $(wildcard inventory.yaml) inventory.local.yaml)
ANSIBLE_ARGS ?=
OUTPUT ?= text
PLAYBOOK = .venv/bin/ansible-playbook -i $(INVENTORY) $(ANSIBLE_ARGS)
COMPARED = $(if $(COMPARE),-e '{"results_compare_with": "$(COMPARE)"}')
PYTEST = .venv/bin/python -m pytest
UNIT = "$(PYTEST) tests/unit tests/images" "$(PYTEST) tests/golden tests/playbooks"

.DEFAULT_GOAL := help
.PHONY: help install-chat plan gpu-runtime-guard ollama-preflight verify probe-suite benchmark client-config prune-models pin-images update-images rollback-images mirror-list uninstall-chat lint sanity unit golden test test-local test-cluster test-hosts docs lock build

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-17s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install-chat: .venv/ready $(INVENTORY) ## deploy what the inventory says, or change it; again: changes nothing
	@$(PLAYBOOK) playbooks/chat.yml

plan: .venv/ready $(INVENTORY) ## tell what install-chat would do, and change nothing; OUTPUT=json for machines
	@scripts/plan --output $(OUTPUT) -i $(INVENTORY) $(ANSIBLE_ARGS)

gpu-runtime-guard: .venv/ready $(INVENTORY) ## name what else holds the GPUs before vLLM starts on them; changes nothing
	@$(PLAYBOOK) playbooks/guard.yml

ollama-preflight: .venv/ready $(INVENTORY) ## the same before Ollama starts
	@$(PLAYBOOK) playbooks/guard.yml -e guard_runtime=ollama

verify: .venv/ready $(INVENTORY) ## smoke-test what is deployed, or what SMOKE_VLLM_BASE_URL names; changes nothing
	@$(PLAYBOOK) playbooks/verify.yml

probe-suite: .venv/ready $(INVENTORY) ## see how each model calls tools and how fast it answers, and keep that; MATRIX=runtime_matrix.json asks others
	@$(PLAYBOOK) $(COMPARED) $(if $(MATRIX),-e '{"probe_config": "$(MATRIX)"}') playbooks/probe.yml

benchmark: .venv/ready $(INVENTORY) ## measure how fast the deployment serves under load, and keep that; COMPARE=latest tells what got worse
	@$(PLAYBOOK) $(COMPARED) playbooks/benchmark.yml

client-config: .venv/ready $(INVENTORY) ## write settings for programs that speak to the endpoint, and examples that run, into client-config/
	@$(PLAYBOOK) playbooks/client_config.yml

prune-models: .venv/ready $(INVENTORY) ## remove weights that nothing serves from; make plan lists them
	@$(PLAYBOOK) playbooks/prune.yml

pin-images: .venv/ready $(INVENTORY) ## write which digests the images' tags name into images.lock.yml; pins that there are stay
	@$(PLAYBOOK) playbooks/pin_images.yml

update-images: .venv/ready $(INVENTORY) ## show which tags have moved, try the new images, and pin them when they serve
	@$(PLAYBOOK) playbooks/update_images.yml

rollback-images: .venv/ready $(INVENTORY) ## go back to the images before the last update, the same way
	@$(PLAYBOOK) playbooks/update_images.yml -e images_back=true

mirror-list: .venv/ready $(INVENTORY) ## list images and weights with sizes, and what copies them; OUTPUT=json for machines
	@scripts/plan --playbook playbooks/mirror_list.yml --output $(OUTPUT) -i $(INVENTORY) $(ANSIBLE_ARGS)

uninstall-chat: .venv/ready $(INVENTORY) ## remove the chat; keeps chats, weights and secrets unless ANSIBLE_ARGS="-e purge=true"
	@$(PLAYBOOK) playbooks/uninstall.yml

lint: .venv/ready-dev ## ansible-lint, yamllint, ruff, mypy, changelog
	@scripts/lint

sanity: .venv/ready-dev ## ansible-test sanity on a copy of this checkout
	@scripts/sanity

unit: .venv/ready-dev ## unit tests, golden manifests, and images in a registry (apt install docker-registry skopeo)
	@scripts/beside $(UNIT)

golden: .venv/ready-dev ## write the golden manifests anew; look at the diff
	@GOLDEN_WRITE=1 $(PYTEST) -q tests/golden

test: lint sanity unit test-local ## everything that needs no cluster

test-local: .venv/ready-dev ## install, use and uninstall the real programs on this machine, with a browser; beside a chat of yours
	@scripts/test-local

test-cluster: .venv/ready-dev ## modules, manifests and molecule on the cluster that KUBECONFIG names
	@scripts/test-cluster

test-hosts: .venv/ready-dev ## platforms systemd and docker over SSH, on machines (containers with systemd) that it makes; needs root
	@scripts/test-hosts

docs: .venv/ready-dev ## write docs/reference.md, docs/catalog.md and docs/parser-matrix.md anew
	@.venv/bin/python scripts/reference.py
	@.venv/bin/python scripts/parser_matrix.py

lock: .venv/ready-dev ## write the lock files of the local platform anew; look at the diff
	@.venv/bin/python scripts/lock.py

build: .venv/ready ## build the collection's archive into build/
	@.venv/bin/ansible-galaxy collection build --force --output-path build

.venv/ready: requirements.txt scripts/bootstrap
	@scripts/bootstrap requirements.txt $@

.venv/ready-dev: requirements-dev.txt requirements.txt scripts/bootstrap
	@scripts/bootstrap requirements-dev.txt $@
	@touch .venv/ready

$(INVENTORY):
	@echo "There is no $@. Make one: cp inventory.example.yaml $@, edit its first lines, then run make $(MAKECMDGOALS) again." >&2; exit 1
