# `make launch` and `make test` each install what they need into .venv first.
PYTHON ?= python3
VENV := .venv
STUDY ?= search_spaces/captions.py

.PHONY: launch test clean

$(VENV)/installed: pyproject.toml Makefile
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --upgrade pip
	@echo "installing torch, diffusers, ray and the rest: about 3 minutes on a good line"
	$(VENV)/bin/python -m pip install --quiet --editable ".[test,report,cluster,heic]"
	@touch $@

launch: $(VENV)/installed
	$(VENV)/bin/python -m sweep launch $(STUDY)

test: $(VENV)/installed
	$(VENV)/bin/python -m pytest

clean:
	rm -rf $(VENV) build *.egg-info
