# Everything is set up in .venv on first use: Python 3.11, 3.12 or 3.13 and make are enough.
#
#   make test PYTHON=python3.12     with a Python of your choice
#   make test ARGS="-k windows"     ARGS goes to nightload demo, pytest, the bench, or uv lock
#   make setup UV=                  with pip, though uv is there

PYTHON ?=
UV ?= uv
ARGS ?=

BIN := .venv/bin
READY := .venv/.ready

# Whatever the caller's shell is set to, packages go into .venv and come from the lock.
unexport PYTHONHOME PYTHONPATH VIRTUAL_ENV
unexport PIP_CONSTRAINT PIP_PREFIX PIP_REQUIRE_HASHES PIP_ROOT PIP_TARGET PIP_USER
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export UV_PROJECT_ENVIRONMENT := .venv
export UV_PYTHON_DOWNLOADS := never

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup demo test lint type bench lock clean FORCE

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-6s %s\n", $$1, $$2 }' Makefile

setup: $(READY) ## install the locked dependencies and nightload into .venv
	@echo ".venv is ready: `$(BIN)/python -V`"

demo: $(READY) ## a night against the sandbox vendors, nothing to configure
	@$(BIN)/nightload demo $(ARGS)

test: $(READY) ## run the tests
	@$(BIN)/python -m pytest $(ARGS)

lint: export SCRIPT = $(LOCKS_AGREE)
lint: $(READY) ## ruff, and that pyproject.toml, uv.lock and requirements.lock agree
	@$(BIN)/python -c "$$SCRIPT"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

type: $(READY) ## mypy
	@$(BIN)/mypy

bench: $(READY) ## measure the ways to load, side by side
	@$(BIN)/python -m bench $(ARGS)

lock: ## write uv.lock and requirements.lock anew (needs uv; ARGS=--upgrade takes newer versions)
	@command -v '$(UV)' >/dev/null || { echo "make lock needs uv on the PATH, or UV=/path/to/uv" >&2; exit 1; }
	@'$(UV)' lock $(ARGS)
	@'$(UV)' export --quiet --locked --all-groups --no-emit-project --no-header \
		--format requirements-txt --output-file requirements.lock.new >/dev/null
	@{ echo '# What nightload is tested with, on Python 3.11 to 3.13. Written by "make lock" from uv.lock; do not edit.'; \
		cat requirements.lock.new; } >requirements.lock
	@rm requirements.lock.new

clean: ## remove .venv, caches and builds; never your data
	@rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis dist
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Set up again when the locks are newer, and when .venv was moved here from elsewhere, has lost
# its Python, or is of another Python than the one asked for.
MINOR := import sys; print(sys.version_info[:2])
FRESH := $(shell \
	test "`cat $(READY) 2>/dev/null`" = "`pwd -P`" && \
	has=`$(BIN)/python -SIc '$(MINOR)' 2>/dev/null` && \
	{ test -z '$(PYTHON)' || test "$$has" = "`'$(PYTHON)' -SIc '$(MINOR)' 2>/dev/null`"; } && \
	echo yes)

$(READY): export SCRIPT = $(SETUP)
$(READY): pyproject.toml requirements.lock uv.lock $(if $(FRESH),,FORCE)
	@sh -c "$$SCRIPT" setup '$(PYTHON)' '$(UV)'

define SETUP
set -eu
asked=$$1 uv=$$2
here=`pwd -P`
if [ -f .venv/.ready ] && [ "`cat .venv/.ready`" != "$$here" ]; then
    rm -rf .venv # its scripts point to where it was
fi
rm -f .venv/.ready
command -v "$${uv:-no-uv}" >/dev/null 2>&1 || uv=

probe='import sys
from importlib.util import find_spec
version = sys.version.split()[0]
if sys.implementation.name != "cpython" or not (3, 11) <= sys.version_info < (3, 14):
    print(version)
elif not sys.argv[1:] and not find_spec("ensurepip"): # Debian without python3-venv
    print(version, "without ensurepip")
else:
    print("yes")
print(getattr(sys, "_base_executable", sys.executable))'
python= found=
if [ -n "$$asked" ]; then
    set -- "$$asked"
else
    set -- .venv/bin/python python3.13 python3.12 python3.11 python3
fi
for name; do
    if ! command -v "$$name" >/dev/null 2>&1; then
        [ -z "$$asked" ] || found="$$name (not there)"
        continue
    fi
    # A name that is there may still not run: pyenv's shims do that.
    answer=`"$$name" -Ic "$$probe" $${uv:+uv} </dev/null 2>/dev/null` || answer='does not run'
    case $$answer in
        yes*) python=`printf '%s\n' "$$answer" | sed -n 2p`; break ;;
        *) found="$${found:+$$found, }$$name (`printf '%s\n' "$$answer" | sed -n 1p`)" ;;
    esac
done
if [ -z "$$python" ]; then
    echo "nightload needs Python 3.11, 3.12 or 3.13 (make PYTHON=/path/to/python3); found: $${found:-none}" >&2
    exit 1
fi

with_uv() {
    cache=`"$$uv" cache dir 2>/dev/null` && mkdir -p "$$cache" 2>/dev/null && [ -w "$$cache" ] || export UV_NO_CACHE=1
    rm -f .venv/.installed
    # nightload itself is built by the locked hatchling, not by whatever is newest.
    "$$uv" sync --quiet --locked --all-groups --python "$$python" --no-build-isolation-package nightload
}

with_pip() {
    if ! cmp -s requirements.lock .venv/.installed ||
        [ "`.venv/bin/python -Ic "$$probe" any 2>/dev/null | sed -n 2p`" != "$$python" ]; then
        "$$python" -m venv --clear .venv
        .venv/bin/python -m pip install -qq --require-hashes --only-binary :all: -r requirements.lock
        cp requirements.lock .venv/.installed
    fi
    .venv/bin/python -m pip install -qq --no-index --no-deps --no-build-isolation --editable .
}

echo "setting up .venv with $$python, which may take a minute" >&2
if [ -n "$$uv" ]; then
    with_uv || { echo "uv could not, see above; trying pip" >&2; with_pip; }
else
    with_pip
fi
printf '%s\n' "$$here" >.venv/.ready
endef

# Without uv, so that it runs everywhere.
define LOCKS_AGREE
import re, sys, tomllib
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

def load(path):
    with open(path, "rb") as file:
        return tomllib.load(file)

project = load("pyproject.toml")
packages = load("uv.lock")["package"]
root = next(p for p in packages if p["name"] == project["project"]["name"])

# pyproject.toml and uv.lock: the same requirements
def declared(requirements):
    parsed = [Requirement(r) for r in requirements]
    return {(canonicalize_name(r.name), frozenset(r.extras), str(r.specifier)) for r in parsed}

def locked(entries):
    return {(e["name"], frozenset(e.get("extras", [])), declared_specifier(e)) for e in entries}

def declared_specifier(entry):
    return str(Requirement(entry["name"] + entry.get("specifier", "")).specifier)

def group(name):
    for item in project["dependency-groups"][name]:
        yield from group(item["include-group"]) if isinstance(item, dict) else [item]

wrong = []
dependencies = sum(project["project"].get("optional-dependencies", {}).values(), project["project"]["dependencies"])
if declared(dependencies) != locked(root["metadata"]["requires-dist"]):
    wrong.append("dependencies in pyproject.toml and uv.lock")
for name in project["dependency-groups"]:
    if declared(group(name)) != locked(root["metadata"]["requires-dev"].get(name, [])):
        wrong.append(f"group {name} in pyproject.toml and uv.lock")

# uv.lock and requirements.lock: the same versions and hashes, of all that nightload and its groups reach
def reach(entry, seen):
    for package in packages:
        if package["name"] == entry["name"] and entry.get("version", package.get("version")) == package.get("version"):
            for extra in [None, *entry.get("extra", [])]:
                key = (package["name"], package["version"], extra)
                if key not in seen:
                    seen.add(key)
                    more = package.get("optional-dependencies", {}).get(extra, []) if extra else package.get("dependencies", [])
                    for dependency in more:
                        reach(dependency, seen)
    return seen

seen = set()
for entries in [root["dependencies"], *root["dev-dependencies"].values()]:
    for entry in entries:
        reach(entry, seen)
reached = {(name, version) for name, version, _ in seen}
want = {
    (p["name"], p["version"]): {f["hash"] for f in [*p.get("wheels", []), *([p["sdist"]] if "sdist" in p else [])]}
    for p in packages
    if (p["name"], p["version"]) in reached
}
have = {}
with open("requirements.lock", encoding="utf-8") as file:
    for line in file:
        if pin := re.match(r"([a-z0-9-]+)(?:\[.*?\])?==(\S+)", line):
            current = have.setdefault(pin.groups(), set())
        elif found := re.search(r"--hash=(\S+)", line):
            current.add(found[1])
for name, version in sorted(want.keys() ^ have.keys()):
    wrong.append(f"{name} {version} only in " + ("uv.lock" if (name, version) in want else "requirements.lock"))
for name, version in sorted(want.keys() & have.keys()):
    if want[name, version] != have[name, version]:
        wrong.append(f"hashes of {name} {version}")

if wrong:
    sys.exit("The locks disagree, run make lock: " + "; ".join(wrong))
endef
