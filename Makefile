# The commands of the project. `make test` installs what it needs and runs every test.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: run test
run: $(VENV)/ready
	@echo "Serving the demo bundle on http://127.0.0.1:8501"
	$(BIN)/streamlit run app.py

test: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q

$(VENV)/ready: requirements.txt
	@echo "Making $(VENV) and installing requirements.txt (about two minutes)"
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), sys.version'
	$(PYTHON) -m venv $(VENV)
	# torch first and alone, so that a CPU build the machine offers is the one everything else is resolved against
	$(BIN)/pip install -q $$(grep '^torch==' requirements.txt)
	$(BIN)/pip install -q -r requirements.txt
	touch $@
