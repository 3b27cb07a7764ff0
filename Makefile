# Learning skill composition from examples: everything is run from here.
PROFILE ?= mini
PORT    ?= 8008
# A profile is a folder of params/ with a plain name; PROFILE is looked at before anything expands it.
PROFILES := $(shell ls params/*/shared.yaml | sed -nE 's|^params/([A-Za-z0-9_][A-Za-z0-9_.-]{0,63})/shared.yaml$$|\1|p')
ifneq ($(words $(value PROFILE)) $(filter $(PROFILES),$(value PROFILE)),1 $(value PROFILE))
$(error PROFILE=$(value PROFILE): no such profile; the profiles are $(PROFILES))
endif
RUN     := runs/$(PROFILE)
PYTHON  ?= python3
VENV    := .venv
PY      := $(VENV)/bin/python
export PYTHONPATH := $(CURDIR)
# One notebook a core, one thread each: two threads beside another job are slower than one.
THREADS ?= 1
.DEFAULT_GOAL := help
-include $(RUN)/notebooks.mk
export OMP_NUM_THREADS := $(THREADS)
export TOKENIZERS_PARALLELISM := false
# Large pages for tensors: sampling on a CPU is about a tenth faster.
export THP_MEM_ALLOC_ENABLE := 1
export HF_HUB_DISABLE_TELEMETRY := 1

help:  ## print this help
	@grep -hE '^[a-z-]+:.*## ' Makefile | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'
	@echo "  PROFILE is one of $(PROFILES), mini if not given"

bench-help:  ## the benchmarks, and checks of a machine
	@grep -hE '^[a-z-]+:.*#: ' Makefile | awk -F ':.*#: ' '{printf "  make %-14s %s\n", $$1, $$2}'

reproduce: $(VENV)/done  ## run the experiment of PROFILE, from the texts to the report
	@$(PY) -m helpers.run.lock $(PROFILE) $(MAKE) --no-print-directory alone PROFILE=$(PROFILE)

# No other make works on this run meanwhile.
alone:
	@$(PY) -m helpers.run.reruns $(PROFILE)
	@$(PY) -m helpers.run.preflight $(PROFILE)
	@$(MAKE) --no-print-directory notebooks-of-profile PROFILE=$(PROFILE)

plan: $(VENV)/done  ## what PROFILE would ask, train and cost; asks nothing
	@$(PY) -m helpers.run.profile_plan $(PROFILE)

preflight: $(VENV)/done  ## what PROFILE needs of others and of this machine; asks no model
	@$(PY) -m helpers.run.preflight $(PROFILE)

ledger: $(VENV)/done  ## what PROFILE has asked so far: replies, tokens, money
	@$(PY) -m helpers.chat.ledger $(PROFILE)

report: $(VENV)/done  ## PROFILE's report once more, from its executed notebooks
	@$(PY) -m helpers.run.report $(PROFILE)

verify: $(VENV)/done  ## are PROFILE's files those its stages made, and the README's numbers those of the stored scores?
	@$(PY) -m helpers.run.manifest $(PROFILE)
	@$(VENV)/bin/pytest -q tests/test_readme.py

# A second run of the cells has to give the first one's outputs, where these are the same everywhere.
NBVAL = $(VENV)/bin/pytest -q --nbval-lax --nbval-current-env --nbval-cell-timeout 120

# The tests in two halves at once, a core each, and each printed when it has ended. Only the other half writes to the
# tree (copies of profiles, their runs), and the first reads nothing of that.
HALF = tests/judge tests/results tests/student tests/training tests/world
# The slow ones in three parts, since they wait a good deal for processes that they start and kill.
MAKES = tests/test_make.py tests/test_moved.py
AT_ONCE = @$(MAKE) --no-print-directory --keep-going -j3
PYTEST = @said="$$($(VENV)/bin/pytest -q --durations=10 $(1) 2>&1)"; code=$$?; printf '%s\n' "$$said"; exit $$code

test: $(VENV)/done  ## lint, tests, and the notebooks against their committed outputs
	@$(VENV)/bin/ruff check && $(VENV)/bin/ruff format --check
	@$(VENV)/bin/lint-imports
	$(AT_ONCE) half-of-tests other-half-of-tests
	@$(MAKE) --no-print-directory reproduce PROFILE=smoke
	@$(PY) -m helpers.run.stage notebooks/explore.ipynb tests/data/explore.yaml runs/smoke/explore.ipynb
	@ls -d runs/smoke/0* runs/smoke/explore.ipynb | xargs -P 2 -n 3 $(NBVAL)

half-of-tests:
	$(call PYTEST,$(HALF))

other-half-of-tests:
	$(call PYTEST,$(HALF:%=--ignore=%))

slow-trainings:
	$(call PYTEST,-m slow tests/training)

slow-makes:
	$(call PYTEST,-m slow $(MAKES))

slow-others:
	$(call PYTEST,-m slow --ignore=tests/training $(MAKES:%=--ignore=%))

test-slow: $(VENV)/done  ## slow proofs
	$(AT_ONCE) slow-trainings slow-makes slow-others
	@if [ -e runs/mini/report.done ]; then $(NBVAL) notebooks/0*.ipynb; else echo "notebooks are not compared: no finished run of mini (make reproduce)"; fi

bench: bench-startup bench-chat bench-sample bench-train  #: all of it beside its peers, to the table runs/bench/README.md; about twenty minutes
	@$(PY) -m bench.table

bench-startup: $(VENV)/done  #: what a notebook costs without work, beside importing torch; a minute
	@$(PY) -m bench.startup

bench-sample: $(VENV)/done  #: answers a second beside plain generate; writes runs/bench/sample.json
	@env -u OMP_NUM_THREADS $(PY) -m bench.sample

dry-run: $(VENV)/done  #: 03_grade at the paper's size against the embedded world: 86,400 gradings, time and memory
	@$(PY) -m bench.dry_run

bench-train: .venv-bench-train/done  #: training speed beside TRL's, to runs/bench/train.json; minutes
	@OMP_NUM_THREADS=1 .venv-bench-train/bin/python -m bench.train

serve-check: $(VENV)/done  #: what a server does, and the YAML for it: SERVE="<command>", or URL=<address> MODEL=<name>
	@$(PY) -m bench.serve_check

gpu-check: $(VENV)/done  #: does the paper's path work on this machine's GPU? trains, resumes, samples, times ways to train; a quarter of an hour
	@$(PY) -m bench.gpu_check

bench-chat: $(VENV)/done .venv-bench/done  #: speed of the chat client beside its peers, about five minutes
	@$(PY) -m bench.chat

# JupyterLab refuses root without the flag; in a container root is who there is.
lab: $(VENV)/done  ## open JupyterLab; in a container: make lab LAB="--ip=0.0.0.0 --no-browser"
	@$(VENV)/bin/jupyter lab --notebook-dir=notebooks $(if $(filter 0,$(shell id -u)),--allow-root) $(LAB)

serve: $(VENV)/done  ## serve the embedded teacher and judge on loopback, at PORT
	@$(PY) -m helpers.world.endpoint $(PORT)

base: $(VENV)/done  ## rebuild the embedded base students, about half an hour each
	@$(PY) -m helpers.world.pretrain $(notdir $(basename $(wildcard params/base/*.yaml)))

notebooks: $(VENV)/done  ## keep the outputs of a first run of mini, which this makes
	@[ ! -e runs/mini ] || { echo "runs/mini is there already: make distclean, or move it away" >&2; exit 1; }
	@$(MAKE) --no-print-directory reproduce PROFILE=mini
	@echo "profile: mini" > runs/mini/params/explore.yaml
	@$(PY) -m helpers.run.stage notebooks/explore.ipynb runs/mini/params/explore.yaml runs/mini/explore.ipynb
	@$(PY) -m helpers.run.notebook_outputs mini

clean:  ## remove executed notebooks and uncommitted figures of PROFILE; replies, texts and models stay
	rm -rf $(RUN)/params $(RUN)/notebooks.mk $(RUN)/figures $(RUN)/0*

distclean:  ## remove ALL of PROFILE's run, paid replies and models too; asks first
	@printf 'Remove $(RUN) with every stored reply and model? [y/N] '; read a; [ "$$a" != y ] || rm -rf $(RUN)

.PHONY: help bench-help reproduce preflight plan ledger report verify test half-of-tests other-half-of-tests test-slow slow-trainings slow-makes slow-others bench bench-startup bench-chat bench-sample bench-train dry-run serve-check gpu-check lab serve base notebooks clean distclean alone notebooks-of-profile

$(VENV)/done: requirements.txt
	@echo "making $(VENV) from requirements.txt (a few minutes, once)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name it with make PYTHON=python3.12")'
	@$(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/pip install --quiet --disable-pip-version-check -r requirements.txt
	@echo "$(CURDIR)" > "$$($(PY) -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/skill-composition.pth"
	@$(PY) -m ipykernel install --sys-prefix --name skill-composition --display-name "Skill composition" > /dev/null
	@touch $@

.venv-bench-train/done: requirements.txt bench/requirements-train.txt
	@echo "making .venv-bench-train, with TRL beside everything of requirements.txt (a few minutes, once)"
	@$(PYTHON) -m venv .venv-bench-train
	@.venv-bench-train/bin/pip install --quiet --disable-pip-version-check -r requirements.txt -r bench/requirements-train.txt
	@touch $@

# Peers of the benchmarks have a venv of their own; without it a benchmark runs without them, and says so.
.venv-bench/done: bench/requirements.txt
	@$(PYTHON) -m venv .venv-bench && .venv-bench/bin/pip install --quiet --disable-pip-version-check -r $< && touch $@ || true

# The notebooks of a profile. An executed notebook is its stage's stamp; `helpers.run.stage` writes it only on success.
# Variants, each stage's modules by its name, and CORPUS, the texts of 01_generate, empty where none are trained on,
# are in notebooks.mk, computed by `helpers.run.reruns`.
STAGE   = @$(PY) -m helpers.run.stage $< $(RUN)/params/$(@:$(RUN)/%.ipynb=%).yaml $@ $^

# report.done holds the report's path: one that is gone is made again.
notebooks-of-profile:
	@[ -e "$$(cat $(RUN)/report.done 2>&1)" ] || rm -f $(RUN)/report.done
	@$(MAKE) --no-print-directory -j$(JOBS) $(RUN)/report.done
	@echo "PROFILE=$(PROFILE) is done: $$(cat $(RUN)/report.done)"

$(RUN)/01_generate.ipynb: notebooks/01_generate.ipynb $(RUN)/params/01_generate.yaml $(01_generate)
	$(STAGE)

$(RUN)/02_finetune/%.ipynb: notebooks/02_finetune.ipynb $(RUN)/params/02_finetune/%.yaml $(CORPUS) $(02_finetune)
	$(STAGE)

$(RUN)/03_grade/%.ipynb: notebooks/03_grade.ipynb $(RUN)/params/03_grade/%.yaml $(03_grade)
	$(STAGE)

# A fine-tuned model is graded after it is trained; a base at any time.
$(TRAINED:%=$(RUN)/03_grade/%.ipynb): $(RUN)/03_grade/%.ipynb: $(RUN)/training/%/model/identity.json

$(RUN)/04_plot.ipynb: notebooks/04_plot.ipynb $(RUN)/params/04_plot.yaml $(04_plot) \
  $(CORPUS) $(TRAINED:%=$(RUN)/training/%/model/identity.json) $(GRADED:%=$(RUN)/grades/%.jsonl)
	$(STAGE)

# Results are written anew only where they change: else nothing after them runs again.
$(RUN)/corpus.jsonl: $(RUN)/01_generate.ipynb
	@true

$(RUN)/training/%/model/identity.json: $(RUN)/02_finetune/%.ipynb
	@true

$(RUN)/grades/%.jsonl: $(RUN)/03_grade/%.ipynb
	@true

$(RUN)/report.done: $(if $(CORPUS),$(RUN)/01_generate.ipynb) $(TRAINED:%=$(RUN)/02_finetune/%.ipynb) \
  $(GRADED:%=$(RUN)/03_grade/%.ipynb) $(RUN)/04_plot.ipynb $(REPORT)
	@$(PY) -m helpers.run.report $(PROFILE) > $@.tmp && mv $@.tmp $@
