# The commands of the project. `make run` and `make test` install what they need and say so.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# vLLM comes in two builds; both want exactly the torch that requirements.txt pins
ENGINE := $(shell nvidia-smi -L >/dev/null 2>&1 && echo cuda || echo cpu)

.PHONY: run test soak bench chromium screenshots figures
run: $(VENV)/ready
	@echo "Serving the demo bundle on http://127.0.0.1:8501"
	$(BIN)/streamlit run app.py

test: $(VENV)/ready chromium
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q

# every promise at full count, under 40 minutes on two idle cores
soak: $(VENV)/ready chromium
	$(BIN)/python -m benchmarks.soak

# every page, light and dark, three widths; two of them go to docs/images
screenshots: $(VENV)/ready chromium
	$(BIN)/python -m tests.browser.screenshots

# everything that README, docs and the first page show of the demo; an hour on two cores
figures: $(VENV)/ready chromium
	rm -rf .probe-parity/figures
	$(BIN)/python -m backend evaluate --matrix --store .probe-parity/figures/runs.sqlite \
	  --runtime hf-bf16 --runtime hf-fp16 --runtime vllm-fp16 --runtime vllm-awq --runtime vllm-awq-original
	$(BIN)/python -m demo.results --run 1 --store .probe-parity/figures/runs.sqlite
	$(BIN)/python -m demo.shown --out .probe-parity/figures/shown.jsonl
	$(BIN)/python -m backend record --dataset .probe-parity/figures/shown.jsonl \
	  --runtime hf-bf16 --runtime vllm-fp16 --runtime vllm-awq --out demo/bundle/recorded.zip
	$(BIN)/python -m docs.figures
	$(BIN)/python -m tests.browser.screenshots

# figures of benchmarks/README.md that need no GPU, with fewer repeats; on a machine that does nothing else
bench: $(VENV)/ready chromium
	$(BIN)/pip install -q -r requirements-bench.txt
	$(BIN)/python -m benchmarks.throughput --vllm --prompts 256
	$(BIN)/python -m benchmarks.latency --runtime hf-bf16 --runtime vllm-fp16 --browser --repeats 40
	$(BIN)/python -m benchmarks.matrix --repeats 2
	$(BIN)/python -m benchmarks.remote
	$(BIN)/python -m benchmarks.memory --rows 200000
	$(BIN)/python -m benchmarks.page --repeats 3
	$(BIN)/python -m benchmarks.verdict --examples 20
	$(BIN)/python -m benchmarks.toggles --runtime hf-bf16 --runtime vllm-fp16 --requests 50

# the browser of the browser tests, from Debian
chromium:
	@command -v chromium >/dev/null || { echo "Installing Debian's chromium for the browser tests"; \
	  $(if $(filter 0,$(shell id -u)),,sudo) apt-get update -qq && $(if $(filter 0,$(shell id -u)),,sudo) apt-get install -y -qq chromium; }

$(VENV)/ready: requirements.txt requirements-$(ENGINE).txt requirements-awq.txt
	@echo "Making $(VENV) with the $(ENGINE) build of vLLM (a few minutes)"
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), sys.version'
	$(PYTHON) -m venv $(VENV)
	# torch first and alone, so that a CPU build the machine offers is the one everything else is resolved against
	$(BIN)/pip install -q $$(grep '^torch==' requirements.txt)
	$(BIN)/pip install -q -r requirements.txt -r requirements-$(ENGINE).txt
	# AutoAWQ's build looks for the torch that is installed
	$(BIN)/pip install -q wheel setuptools
	$(BIN)/pip install -q --no-build-isolation -r requirements-awq.txt
ifeq ($(ENGINE),cpu)
	# vLLM's CPU build brings CUDA builds of these, which break `import transformers` beside a CPU torch; text needs none
	$(BIN)/pip uninstall -q -y torchvision torchaudio torchcodec
endif
	touch $@
