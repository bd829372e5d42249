"""An engine's last words, as llama.cpp writes them, and what is made of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from a3s_power.errors import LoadFailed, LoadFailure
from a3s_power.runner.failures import ending, how_lost, load_failed, telling_line

STOPPED = "model runner has unexpectedly stopped, this may be due to resource limitations or an internal error"


@pytest.mark.parametrize(
    ("words", "returncode", "reason", "said"),
    [
        ("0.00.032.115 E llama_model_load: error loading model: unknown model architecture: 'foo'", 1,
         LoadFailure.UNSUPPORTED_ARCHITECTURE, "error loading model: unknown model architecture: 'foo'"),
        ("0.01 E gguf_init_from_file_impl: invalid magic characters: 'abcd', expected 'GGUF'", 1,
         LoadFailure.CORRUPT_FILE, "invalid magic characters"),
        ("llama_model_load: error loading model: tensor 'x' data is not within the file bounds, "
         "model is corrupted or incomplete", 1, LoadFailure.CORRUPT_FILE, "not within the file bounds"),
        ("E ggml_backend_cuda_buffer_type_alloc_buffer: allocating 900.00 MiB on device 0: cudaMalloc failed: "
         "out of memory", 1, LoadFailure.OUT_OF_MEMORY, "cudaMalloc failed"),
        ("terminate called after throwing an instance of 'std::bad_alloc'", -6, LoadFailure.OUT_OF_MEMORY, ""),
        ("ggml_vulkan: vk::Device::allocateMemory: ErrorOutOfDeviceMemory", 1, LoadFailure.OUT_OF_MEMORY, ""),
        ("mmap failed: Cannot allocate memory", 1, LoadFailure.OUT_OF_MEMORY, "Cannot allocate memory"),
        ("init: failed to allocate buffer for kv cache", 1, LoadFailure.CONTEXT_TOO_LARGE, "kv cache"),
        ("E common_init_from_params: failed to create context with model '/m'", 1, LoadFailure.CONTEXT_TOO_LARGE, ""),
        ("libgomp.so.1: cannot open shared object file: No such file or directory", 1,
         LoadFailure.MISSING_LIBRARY, "libgomp1"),
        ("", -9, LoadFailure.OUT_OF_MEMORY, "killed by SIGKILL"),       # the kernel leaves no words
        ("loading …", -9, LoadFailure.OUT_OF_MEMORY, "killed by SIGKILL"),
        ("", -11, LoadFailure.OTHER, "killed by SIGSEGV"),
        ("", 3, LoadFailure.OTHER, "exit status 3"),
        ("all is well", 0, LoadFailure.OTHER, "exit status 0"),
        ("something failed oddly", 1, LoadFailure.OTHER, "something failed oddly"),
    ],
)  # fmt: skip
def test_the_reason_for_a_failed_load_is_in_the_engines_last_words(words, returncode, reason, said):
    failed = load_failed(words, returncode)
    assert isinstance(failed, LoadFailed)
    assert failed.reason is reason
    assert said in str(failed)
    assert str(failed).startswith(f"the model could not be loaded ({reason}): ")


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        ("cudaMalloc failed", "; free some memory, or try a smaller model or num_ctx"),
        ("failed to allocate kv cache", "; try a smaller num_ctx"),
        ("unknown model architecture", "; a newer engine may know it: pip install --upgrade xllamacpp"),
        ("invalid magic", "; pull or create the model again"),
        ("libgomp.so.1", "or libgomp (Fedora, RHEL, Alpine)"),
        ("who knows", "exit status 1"),
    ],
)
def test_the_message_ends_with_what_to_try(words, advice):
    assert str(load_failed(words, 1)).endswith(advice)


@pytest.mark.parametrize(
    ("words", "returncode", "message"),
    [
        ("", None, STOPPED),                                                    # still there, but hung up
        ("", -9, f"{STOPPED}: the engine was killed by SIGKILL"),
        ("", 0, f"{STOPPED}: the engine ended with exit status 0"),
        ("0.1 E srv  send_error: task id 3, error: too long", -11, f"{STOPPED}: the engine was killed by SIGSEGV"),
        ("0.5 I x\n/src/ggml.c:12: GGML_ASSERT(a == b) failed\nmore", -6, f"{STOPPED}: /src/ggml.c:12: GGML_ASSERT(a == b) failed"),
        ("CUDA error: an illegal memory access", -6, f"{STOPPED}: CUDA error: an illegal memory access"),
        ("0.12.3 E ggml_cuda: out of memory", -6, f"{STOPPED}: out of memory"),
    ],
)  # fmt: skip
def test_a_runner_that_is_lost_says_why_and_no_old_error_of_another_request(words, returncode, message):
    assert how_lost(words, returncode) == message


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("", ""),
        ("fine\nfine too", ""),
        ("fine\nthis failed\nthat failed", "this failed"),
        ("0.00.017.123 E srv  load_model: failed to load model, '/m'", "failed to load model, '/m'"),
        ("0.00.017.123 E llama_decode: no words for it", "no words for it"),
        ("  an error with blanks  ", "an error with blanks"),
        ("terrors and unfailed things", ""),
    ],
)
def test_the_first_line_that_tells_is_taken_without_its_time_stamp(words, line):
    assert telling_line(words) == line


@pytest.mark.parametrize(
    ("returncode", "text"),
    [
        (0, "the engine ended with exit status 0"),
        (127, "the engine ended with exit status 127"),
        (-15, "the engine was killed by SIGTERM"),
        (-34, "the engine was killed by SIGRTMIN"),
        (-40, "the engine was killed by signal 40"),
    ],
)  # fmt: skip
def test_an_end_is_told_in_words(returncode, text):
    assert ending(returncode) == text


@given(st.text(), st.integers(-31, 255))
def test_no_words_break_the_one_who_reads_them(words, returncode):
    assert str(load_failed(words, returncode))
    assert how_lost(words, returncode).startswith(STOPPED)
