PYTHON ?= python3
VENV ?= .venv
PROMPT ?= a person walks forward and turns left
BIN = $(VENV)/bin

.PHONY: demo test lint clean

# The stamps make a second call start at once; a changed requirements file sets up again.
$(VENV)/.ready: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	@echo "setting up $(VENV): some minutes, nearly all of them for PyTorch (2 GB on disk)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/.ready-dev: requirements-dev.txt requirements-app.txt visualization/page/package-lock.json $(VENV)/.ready
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	command -v npm >/dev/null && npm ci --silent --prefix visualization/page \
		|| echo "no packages of npm: the tests that need them are skipped"
	touch $@

demo: $(VENV)/.ready  ## a motion from a prompt, with the bundled models, on the CPU
	$(BIN)/python gen_t2m.py --gpu_id -1 --ext demo --text_prompt "$(PROMPT)"

test: $(VENV)/.ready-dev lint  ## everything that is checked
	$(BIN)/python -m pytest

lint: $(VENV)/.ready-dev
	$(BIN)/ruff check .

clean:
	rm -rf $(VENV) generation/demo
