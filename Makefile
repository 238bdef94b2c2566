# Every target sets up .venv in the root when it is missing or older than what it is made from.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.ready
ARGS ?=

.PHONY: run test test-fast test-slow bench report zoo demo-vlm lint clean

run: $(STAMP)
	$(BIN)/python run.py model=clip attn=fna landmarks=64 $(ARGS)
	@echo "next: $(BIN)/python run.py -m attn=fna,fna_plus,nystromformer landmarks=16 limit=100    (a sweep; --help lists every choice)"

test: test-fast test-slow

test-fast: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not slow and not gpu" $(ARGS)

test-slow: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "slow and not gpu" $(ARGS)

bench: $(STAMP)
	$(BIN)/python scripts/bench.py $(ARGS)

report: $(STAMP)
	$(BIN)/python -m fna.report outputs

zoo: $(STAMP)
	$(BIN)/python scripts/train_clip_shapes.py $(ARGS)
	$(BIN)/python scripts/train_llava_shapes.py $(ARGS)

demo-vlm: $(STAMP)
	$(BIN)/python scripts/demo_vlm.py $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache
