# Every target builds the virtual environment first if it is missing or older than its lock file.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO_OUT ?= runs/demo$(if $(QUICK),-quick)
WORKERS ?= 2
SITE ?= site
# Small matrices everywhere: one BLAS thread a process, parallelism goes to seeds.
export OMP_NUM_THREADS ?= 1

.PHONY: setup demo test test-long test-slow test-browser lint bench docs notebook docs-results clean

setup: $(STAMP)

# Bytecode is made when a module is first imported: compiling all of it took more than half of the time.
$(STAMP): requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps -e .
	touch $@

# Contrastive-UCB against baselines on the lock: prints a table, writes plots and a page; QUICK=1 takes seconds.
demo: $(STAMP)
	$(BIN)/rlc sweep docs/results/demo.toml $(if $(QUICK),--quick) --overwrite --workers $(WORKERS) --out $(DEMO_OUT)
	@echo "plot: $(DEMO_OUT)/compare/sample-efficiency.png, page: $(DEMO_OUT)/compare/index.html"

test: $(STAMP)
	$(BIN)/pytest -q -n 2

test-long: $(STAMP)
	$(BIN)/pytest -q -n 2 -m "long and not slow and not browser and not gpu"

test-slow: $(STAMP)
	$(BIN)/pytest -q -n 2 -m "slow and not browser and not gpu"

# Needs Chromium; skipped without.
test-browser: $(STAMP)
	$(BIN)/pytest -q -n 1 -m browser

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict -p rl_contrastive
	$(BIN)/lint-imports

# Every table, also behind one whose bar is missed; the failure is reported at the end.
bench: $(STAMP)
	code=0; for script in vector_env feature_learning equilibrium replay game_envs run_start deep_speed; do \
		echo "== benchmarks/$$script.py"; $(BIN)/python benchmarks/$$script.py || code=1; \
	done; exit $$code

# The site in site/. A broken link, a page that is missing or an API name that is gone fails the build.
DOCS_STAMP := $(VENV)/.installed-docs
$(DOCS_STAMP): requirements-docs.lock $(STAMP)
	$(BIN)/python -m pip install --quiet -r requirements-docs.lock
	touch $@

docs: $(DOCS_STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --site-dir $(SITE)

# The outputs of the tutorial made again, in place.
notebook: $(DOCS_STAMP)
	PYTHONPATH=. $(BIN)/jupyter nbconvert --to notebook --execute --inplace docs/tutorial.ipynb

# Runs every sweep whose table is kept in docs/results (finished runs are skipped; hours in all) and writes its table and
# plot there; pages and all plots stay in runs/NAME/compare. Sweeps that only tune, or that were not run whole, have no
# folder there. Then the studies of energy models, whose measured fits are kept too.
docs-results: $(STAMP)
	for sweep in docs/results/*.toml; do \
		name=$$(basename $$sweep .toml); \
		case $$name in noise-depth-twin) ;; *) test -d docs/results/$$name || continue;; esac; \
		out=runs/$$name; test -d records/$$name && out=records/$$name; \
		$(BIN)/rlc sweep $$sweep --out $$out --workers $(WORKERS) || exit 1; \
		case $$name in bonus-depth|noise-depth*) continue;; esac; \
		plot=sample-efficiency.png; test -f $$out/compare/$$plot || plot=gap.png; \
		case $$name in objectives-lock*) plot=episodes-to-solve.png;; esac; \
		cp $$out/compare/table.md $$out/compare/$$plot docs/results/$$name/ || exit 1; \
	done
	$(BIN)/python benchmarks/depth_table.py runs/bonus-depth --against "rnd, gate tried" > docs/results/bonus-depth/table.md
	$(BIN)/python benchmarks/depth_table.py runs/noise-depth --against ours > docs/results/noise-depth/table.md
	$(BIN)/python benchmarks/depth_table.py runs/noise-depth-twin --against ours > docs/results/noise-depth/twin.md
	$(BIN)/rlc matches runs/soccer --out runs/soccer/matches
	cp runs/soccer/matches/table.md docs/results/soccer/matches.md
	cp runs/soccer/matches/matches.png docs/results/soccer/
	for name in low-rank low-rank-large; do \
		$(BIN)/python benchmarks/low_rank_table.py runs/$$name > docs/results/$$name/pooled.md || exit 1; \
	done
	for name in standard-lock distractor-lock optimism optimism-games deep-sea tables objectives-lock objectives-lock-long noisy-lock noisy-lock-strict refinement ucb-ablation duel-lock duel-lock-long; do \
		$(BIN)/python benchmarks/worlds_table.py runs/$$name > docs/results/$$name/pooled.md || exit 1; \
	done
	for name in objectives-low-rank objectives-games; do \
		$(BIN)/python benchmarks/objectives_table.py runs/$$name > docs/results/$$name/pooled.md || exit 1; \
	done
	for name in deep-classic deep-cartpole; do \
		$(BIN)/python benchmarks/deep_table.py runs/$$name --terminal > docs/results/$$name/last.md || exit 1; \
	done
	for name in deep-sea-deep deep-swingup; do \
		$(BIN)/python benchmarks/deep_table.py runs/$$name > docs/results/$$name/last.md || exit 1; \
	done
	for study in gaussian-mean landscape density-2d conditional ood images; do \
		$(BIN)/rlc energy $$study --out runs/energy --workers $(WORKERS) || exit 1; \
		mkdir -p docs/results/energy/$$study || exit 1; \
		cp runs/energy/$$study/report.md runs/energy/$$study/*.png docs/results/energy/$$study/ || exit 1; \
	done

# Keeps run folders and the virtual environment.
clean:
	rm -rf build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find rl_contrastive envs agents tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
