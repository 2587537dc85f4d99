# Thin front of CMake and the scripts. `make` builds, `make demo` shows, `make test` tests.
#   BACKEND=cpu|cuda|metal|vulkan   of the engine (default: that of the last build, or cpu)
#   WERROR=ON                       warnings are errors
#   MODEL=FILE                      the model of demo and benches (default: downloaded once)
#   JSON=FILE                       where `make demo` writes its figures
BUILD ?= build
# The stamp of the last build names its backend, so that `make test` after `make BACKEND=cuda` keeps it.
BACKEND ?= $(firstword $(subst -, ,$(patsubst $(BUILD)/.configured-%,%,$(wildcard $(BUILD)/.configured-*))) cpu)
WERROR ?= OFF
# What draws: prebuilt (a package, fetched by `make image-library`) or source (compiled once).
IMAGE ?= $(or $(word 3,$(subst -, ,$(patsubst $(BUILD)/.configured-%,%,$(wildcard $(BUILD)/.configured-*)))),prebuilt)
FUZZ_SECONDS ?= 20
JOBS ?= 2
# Tests wait more than they compute.
TEST_JOBS ?= 3

CONFIGURE = cmake -S . -G Ninja -DTANDEM_WERROR=$(WERROR)
# One stamp per set of options: changing them configures again, repeating them does not.
STAMP = $(BUILD)/.configured-$(BACKEND)-$(WERROR)-$(IMAGE)
CTEST = ctest --output-on-failure

.PHONY: all deps test model demo check format tidy sanitize fuzz acceptance bench-long cross \
	macos-check valgrind clean image-library image-model image-train

all: $(STAMP)
	cmake --build $(BUILD) --target programs

$(STAMP):
	@scripts/deps.sh build
	$(CONFIGURE) -B $(BUILD) -DTANDEM_BACKEND=$(BACKEND) -DTANDEM_IMAGE=$(IMAGE)
	@rm -f $(BUILD)/.configured-*
	@touch $@

deps:
	@scripts/deps.sh build
	@cmake -DBACKEND=$(BACKEND) -P scripts/llama.cmake

test: $(STAMP)
	cmake --build $(BUILD)
	$(CTEST) --test-dir $(BUILD) -j $(TEST_JOBS)

# Prints one line, the path; what else there is to say goes to stderr.
model:
	@$(MAKE) all >&2
	@TANDEM_BIN=$(abspath $(BUILD)) scripts/model.sh

# A prebuilt library that draws, and the model of the image tests. Each prints one line, a path.
image-library:
	@scripts/deps.sh build >&2
	@scripts/image-library.sh

image-model:
	@$(MAKE) $(STAMP) >&2
	@cmake --build $(BUILD) --target image_model >&2
	@TANDEM_BIN=$(abspath $(BUILD)) scripts/image-model.sh

# Trains that model's values anew, from nothing (2 to 10 minutes), and holds the result to the same test.
image-train: $(STAMP) image-library
	cmake --build $(BUILD)
	$(BUILD)/image_model train $(BUILD)/image-trained.f16
	$(BUILD)/image_model write $(BUILD)/image-trained.f16 $(BUILD)/image-trained.gguf
	TANDEM_BIN=$(abspath $(BUILD)) TANDEM_TEST_IMAGE_MODEL=$(abspath $(BUILD))/image-trained.gguf tests/e2e_image.sh

demo: all
	@TANDEM_BIN=$(abspath $(BUILD)) scripts/with-model.sh \
		sh -c 'exec "$$0" demo -m "$$TANDEM_TEST_MODEL" "$$@"' $(BUILD)/tandem $(if $(JSON),--json-file $(JSON))

check:
	@scripts/check-includes.sh
	@scripts/check-banned.sh
	@scripts/deps.sh build check
	@scripts/check-format.sh

format:
	@scripts/check-format.sh --fix

tidy: $(STAMP)
	@scripts/deps.sh build check
	clang-tidy --quiet -p $(BUILD) $$(find src -name '*.c' ! -name '*darwin.c')

# The unit tests and the replayed fuzz corpora, without the model library.
# What has one thread shows the thread sanitizer nothing.
sanitize-thread: SKIP = -E '^(sim|plan|place|profile|image_model|check_|e2e_plan|e2e_models|kv_test|kv_prefix|peft|trace|replay)'
# Nodes that are killed and stopped keep the thread sanitizer busy for long enough.
sanitize-address: SKIP = -E '^e2e_faults$$'
sanitize: sanitize-address sanitize-thread
sanitize-%:
	@scripts/deps.sh build
	$(CONFIGURE) -B build-$(patsubst address,asan,$(patsubst thread,tsan,$*)) \
		-DTANDEM_LLAMA=OFF -DTANDEM_SANITIZE=$*
	cmake --build build-$(patsubst address,asan,$(patsubst thread,tsan,$*))
	$(CTEST) --test-dir build-$(patsubst address,asan,$(patsubst thread,tsan,$*)) -j $(TEST_JOBS) $(SKIP)

fuzz:
	@scripts/deps.sh build check
	$(CONFIGURE) -B build-fuzz -DCMAKE_C_COMPILER=clang -DTANDEM_FUZZ=ON -DTANDEM_LLAMA=OFF \
		-DTANDEM_SANITIZE=address
	cmake --build build-fuzz
	@scripts/fuzz.sh build-fuzz $(FUZZ_SECONDS)

# Real servers behind this one, which are built and installed once per machine. mlx is for Linux; elsewhere say
# UPSTREAMS=llama-server.
.PHONY: test-upstream
test-upstream: UPSTREAMS ?= llama-server mlx
test-upstream: all
	@TANDEM_BIN=$(abspath $(BUILD)) scripts/with-model.sh tests/e2e_upstream_servers.sh $(UPSTREAMS)

acceptance: test-programs
	@TANDEM_BIN=$(abspath $(BUILD)) scripts/with-model.sh bench/acceptance.sh
	@$(MAKE) test-upstream image-train bench-tuning

bench-long: test-programs
	@TANDEM_BIN=$(abspath $(BUILD)) scripts/with-model.sh bench/long.sh

# How long a choice between nodes takes, by size of fleet; into bench/results/, a part of `make acceptance`.
.PHONY: bench-place
bench-place: $(STAMP)
	@cmake --build $(BUILD) --target bench_place >&2
	@TANDEM_BIN=$(abspath $(BUILD)) scripts/with-model.sh bench/acceptance.sh place

# Does the gateway choose the fastest plan? Stalls and goodput of two cores beside llama-server. Two Sparks and a Mac. What
# pictures add, and what they cost the chats. All into bench/results/, held against their bounds; parts of `make acceptance`.
.PHONY: bench-grid bench-stalls bench-goodput bench-fleet bench-images
bench-grid bench-stalls bench-goodput bench-fleet bench-images: all
	@TANDEM_BIN=$(abspath $(BUILD)) scripts/with-model.sh bench/acceptance.sh $(@:bench-%=%)

# Time and memory of the fleet simulator: a thousand nodes, a million requests.
.PHONY: bench-simulate
bench-simulate: all
	@TANDEM_BIN=$(abspath $(BUILD)) bench/simulate.sh

# Eighty chats from the file to the answers, on the model as it is shipped and on its copy; minutes.
.PHONY: bench-tuning
bench-tuning: all
	@source=$$(TANDEM_BIN=$(abspath $(BUILD)) scripts/model.sh --source) && TANDEM_BIN=$(abspath $(BUILD)) scripts/with-model.sh \
		sh -c 'exec bench/tuning.py "$$0" "$$TANDEM_TEST_MODEL" --json-file bench/results/tuning.json' "$$source"

# A training step against PyTorch's; TORCH_PYTHON: a Python with torch, transformers, peft and gguf.
.PHONY: bench-train golden-peft
bench-train: all
	@TANDEM_BIN=$(abspath $(BUILD)) scripts/with-model.sh bench/train_step.py \
		--json-file bench/results/train_step.json

# Makes the random PEFT adapters of tests/golden/peft anew, with llama.cpp's own converter.
golden-peft: all
	@$(or $(TORCH_PYTHON),python3) scripts/peft_golden.py $${TANDEM_CACHE:-$$HOME/.cache/tandem}/llama-v0.5.0-src

# A job whose trainer, runner, gateway, node and command are killed twenty times must end like an undisturbed one.
train-long: test-programs
	@TANDEM_BIN=$(abspath $(BUILD)) TANDEM_TRAIN_KILLS=20 TANDEM_TRAIN_RESULT=bench/results/train_kills.json scripts/with-model.sh tests/e2e_train.sh

# torchrun between two machines that are this one, over ssh; TORCH_PYTHON as for bench-train.
train-torch: test-programs
	@TANDEM_BIN=$(abspath $(BUILD)) TANDEM_SOURCE=$(CURDIR) scripts/with-model.sh tests/e2e_ssh.sh

.PHONY: test-programs train-long train-torch
test-programs: $(STAMP)
	cmake --build $(BUILD)

# Our own code for 64-bit ARM, its unit tests run by qemu's user mode; millions of simulated requests, all arithmetic, take
# it three minutes and are left out.
cross:
	@scripts/deps.sh build cross
	@sysroot=$$(scripts/sysroot-arm64.sh) && TANDEM_SYSROOT=$$sysroot $(CONFIGURE) -B build-arm64 \
		-DCMAKE_TOOLCHAIN_FILE=cmake/aarch64-linux.cmake -DTANDEM_LLAMA=OFF
	cmake --build build-arm64
	$(CTEST) --test-dir build-arm64 -j $(JOBS) -E '^sim_test$$'

# Compiles src/ for macOS on ARM, without linking.
macos-check:
	@scripts/deps.sh build
	@scripts/macos-check.sh

# The main job under valgrind, with the fake engine; GnuTLS without the instructions that valgrind lacks.
valgrind: test-programs
	@scripts/deps.sh build check
	@TANDEM_BIN=$(abspath $(BUILD)) TANDEM_TEST_MODEL= GNUTLS_CPUID_OVERRIDE=0x1 \
		TANDEM_WRAP="valgrind -q --trace-children=yes --exit-on-first-error=yes --error-exitcode=99" \
		tests/e2e_smoke.sh

clean:
	rm -rf build build-asan build-tsan build-fuzz build-arm64 build-macos
