PYTHON ?= python3
VENV ?= .venv
PROMPT ?= a person walks forward and turns left
BIN = $(VENV)/bin

.PHONY: demo test lint clean

# Stamp files skip the setup unless a requirements file has changed.
$(VENV)/.ready: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	@echo "Setting up $(VENV). This takes a few minutes, mostly for PyTorch (2 GB on disk)."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/.ready-dev: requirements-dev.txt requirements-app.txt visualization/page/package-lock.json $(VENV)/.ready
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	command -v npm >/dev/null && npm ci --silent --prefix visualization/page \
		|| echo "npm packages are not installed; tests that need them are skipped"
	touch $@

demo: $(VENV)/.ready  ## generate a motion from PROMPT with the bundled models on the CPU
	$(BIN)/python gen_t2m.py --gpu_id -1 --ext demo --text_prompt "$(PROMPT)"

test: $(VENV)/.ready-dev lint  ## run the linter and all tests
	$(BIN)/python -m pytest

lint: $(VENV)/.ready-dev
	$(BIN)/ruff check .

clean:
	rm -rf $(VENV) generation/demo
