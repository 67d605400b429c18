# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE: of this collection only; it may change in any release.
"""The words by which causes of failure are known, each with what to say of it and what to do: of logs, registries, runtimes, admission.

A cause that needs more than words is in _diagnosis.py.
vLLM 0.32: v1/core/kv_cache_utils.py, v1/worker/{utils,cpu_worker}.py, config/{model,parallel,vllm}.py, platforms/cuda.py,
model_executor/models/registry.py, entrypoints/launchers/launcher.py. The hub: huggingface_hub/utils/_http.py, transformers/utils/hub.py.
Kubernetes: pkg/kubelet/{images,kuberuntime}, plugin/pkg/admission.
"""

from __future__ import annotations

import re
import typing as t

from ansible_collections.llmops.serving.plugins.module_utils._logs import LONGEST_LINE


class LogCause(t.NamedTuple):
    """What words say. ``line`` is the line that says it, ``certain``: waiting cannot mend it. ``what`` has no full stop."""

    cause: str
    what: str
    line: str
    advice: str
    certain: bool


class Sign(t.NamedTuple):
    """Words by which a cause is known. ``what`` and ``advice`` have the groups of the pattern that took part, as ``{0}``, ``{1}``, ..."""

    pattern: str
    cause: str
    what: str
    advice: str
    certain: bool = True


# Whoever knows the row puts its name there.
ANY_ROW = "<row>"
ROW = f"vllm_model_configs.{ANY_ROW}"
_LESS_MEMORY = f"Lower {ROW}.max_model_len or max_num_seqs, take a smaller or quantized model, or more GPUs (vllm_gpu_count)"
_TOKEN = "Set hf_token to a token whose owner has been granted access on the model's page"
_NAME = f"Correct {ROW}.model or revision; a private model needs hf_token"
_ROOM = "Raise vllm_storage_size, or remove models that are no longer served: make prune-models"
_RIGHTS = "Set vllm_volume_permissions: true, or give the folder to the user of vllm_run_as_user"
_DRIVER = "Update the NVIDIA driver there, or take an older vllm_image"
_SEE_GPU = (
    "Let it see the GPU: the NVIDIA driver, and in a cluster vllm_runtime_class or the GPU operator. Without one: vllm_accelerator: cpu"
)
_FETCH = "Run again, so that the weights are fetched before it starts"
_ANEW = "Remove the model's folder from the volume and run again, so that it is fetched anew"
_CPU = "Take a vllm_image for the CPU of that machine, or keep it to machines of its own kind with vllm_node_selector"

# The first that matches decides: special ones before general ones.
LOG_SIGNS = [
    # -- memory
    Sign(
        r"max seq len \((\d+)\), \(([\d.]+) GiB KV cache is needed, which is larger than the available KV cache memory \(([\d.]+) GiB\)"
        r".*?estimated maximum model length is (\d+)",
        "kv-cache-too-small",
        "one chat of {0} tokens needs {1} GiB of KV cache, and {2} GiB are left for it",
        f"Set {ROW}.max_model_len: {{3}}",
    ),
    Sign(
        r"max seq len \((\d+)\), \(([\d.]+) GiB KV cache is needed, which is larger than the available KV cache memory \(([\d.]+) GiB\)",
        "kv-cache-too-small",
        "one chat of {0} tokens needs {1} GiB of KV cache, and {2} GiB are left for it",
        _LESS_MEMORY,
    ),
    Sign(
        r"No available memory for the cache blocks",
        "kv-cache-too-small",
        "the model leaves no memory for a KV cache",
        f"Raise {ROW}.gpu_memory_utilization, take a smaller or quantized model, or more GPUs (vllm_gpu_count)",
    ),
    Sign(
        r"Free memory on device (\S+) \(([\d.]+)/([\d.]+) GiB\) on startup is less than desired GPU memory utilization"
        r" \(([\d.]+), ([\d.]+) GiB",
        "gpu-memory-taken",
        "{1} of {2} GiB of GPU {0} are free, and gpu_memory_utilization {3} asks for {4} GiB",
        f"End what else uses the GPU (nvidia-smi shows it), or lower {ROW}.gpu_memory_utilization",
        False,
    ),
    Sign(
        r"Available memory on node (\S+) \(([\d.]+)/([\d.]+) GiB\) on startup is less than desired CPU memory utilization"
        r" \(([\d.]+), ([\d.]+) GiB",
        "host-memory-taken",
        "{1} of {2} GiB of memory are free, and gpu_memory_utilization {3} asks for {4} GiB",
        f"End other programs, or lower {ROW}.gpu_memory_utilization",
        False,
    ),
    Sign(
        r"Available memory on node (\S+) \(([\d.]+)/([\d.]+) GiB\) on kv cache allocation is less than requested memory for kv \(([\d.]+)",
        "host-memory-taken",
        "{1} of {2} GiB of memory are free, and the KV cache asks for {3} GiB",
        f"End other programs, or lower {ROW}.kv_cache_memory_bytes",
        False,
    ),
    Sign(
        r"out of memory occurred when warming up \w+ with (\d+) dummy requests",
        "gpu-out-of-memory",
        "the GPU's memory does not hold {0} requests at once",
        f"Lower {ROW}.max_num_seqs or gpu_memory_utilization",
    ),
    Sign(
        r"out of memory\. Tried to allocate ([\d.]+ \wiB)\. GPU (\d+) has a total capacity of ([\d.]+ \wiB) of which ([\d.]+ \wiB) is free",
        "gpu-out-of-memory",
        "GPU {1} has no room for {0} more: {3} of {2} are free",
        _LESS_MEMORY,
    ),
    Sign(
        r"(?:CUDA|HIP) (?:error: )?out of memory|CUBLAS_STATUS_ALLOC_FAILED", "gpu-out-of-memory", "the GPU's memory is full", _LESS_MEMORY
    ),
    Sign(
        r"process was killed \(signal 9\)",
        "killed",
        "its process was killed (signal 9), as Linux does when memory runs out",
        "Give it more memory (vllm_memory_limit), or end other programs on that machine",
        False,
    ),
    Sign(
        r"Insufficient space in (/dev/shm\S*) for .+?: (\d+ MiB) required, (\d+ MiB) free",
        "shm-too-small",
        "{0} is too small for the processes of the engine: {1} are needed at once, {2} are free",
        "Raise vllm_shm_size",
    ),
    Sign(
        r"shared memory segment|(?:/dev/shm|psm_)\S*.*No space left|No space left.*(?:/dev/shm|psm_)|insufficient shared memory|^Bus error",
        "shm-too-small",
        "/dev/shm is too small for the processes of the engine",
        "Raise vllm_shm_size",
    ),
    Sign(
        r"^MemoryError|DefaultCPUAllocator: (?:can't|not enough)|Cannot allocate memory",
        "host-out-of-memory",
        "the machine's memory, or its share of it, is full",
        "Raise vllm_memory_limit, or end other programs on that machine",
    ),
    # -- settings
    Sign(
        r"User-specified max_model_len \((\d+)\) is greater than the derived max_model_len \(\S+?=(\d+)",
        "max-model-len-too-long",
        "max_model_len {0} is more than the {1} tokens that the model can hold",
        f"Set {ROW}.max_model_len: {{1}}, or less",
    ),
    Sign(
        r"max_num_batched_tokens \((\d+)\) (?:is smaller than max_model_len|must be greater than or equal to max_num_seqs) \((\d+)\)",
        "bad-flag-value",
        "max_num_batched_tokens {0} is too small for {1}",
        f"Raise {ROW}.max_num_batched_tokens",
    ),
    Sign(
        r"unrecognized arguments: (\S+)|unexpected argument '(\S+)' found",
        "unknown-flag",
        "its program does not know the flag {0}",
        f"Remove it from {ROW}.extra_args, or take a vllm_image that knows it",
    ),
    Sign(
        r"argument (\S+): (?:invalid choice: '?([^' ]*)|invalid \S+ value: '?([^']*))",
        "bad-flag-value",
        'the flag {0} does not take "{1}"',
        f"Correct the key of {ROW} that sets it, or {ROW}.extra_args",
    ),
    Sign(r"argument (\S+): (expected .+)", "bad-flag-value", "the flag {0} lacks its value: {1}", f"Correct {ROW}.extra_args"),
    Sign(
        r"Configuration validation failed: (?:Validation failed: )?(.+)",
        "bad-flag-value",
        "its flags do not go together: {0}",
        "Correct them",
    ),
    Sign(
        r"invalid tool call parser: (\S+)|Tool parser '([^']+)' not found|requires tool_parser:'([^']+)' which",
        "unknown-tool-parser",
        'vLLM has no tool call parser "{0}"',
        f"Correct {ROW}.tool_call_parser",
    ),
    Sign(
        r"invalid reasoning parser: (\S+)|Reasoning parser '([^']+)' not found",
        "unknown-reasoning-parser",
        'vLLM has no reasoning parser "{0}"',
        f"Correct {ROW}.reasoning_parser",
    ),
    Sign(
        r"--enable-auto-tool-choice requires --tool-call-parser",
        "tool-parser-missing",
        "tool calls are asked for without a parser",
        f"Set {ROW}.tool_call_parser",
    ),
    Sign(
        r"attention heads \((\d+)\) must be divisible by tensor parallel size \((\d+)\)",
        "tensor-parallel",
        "the model's {0} attention heads cannot be shared by {1} GPUs",
        "Set vllm_tensor_parallel_size to a number that divides them",
    ),
    Sign(
        r"World size \((\d+)\) is larger than the number of available GPUs \((\d+)\)",
        "too-few-gpus",
        "{0} GPUs are wanted, and {1} are there",
        "Set vllm_tensor_parallel_size and vllm_gpu_count to what one machine has",
    ),
    Sign(
        r"AssertionError: (\d+) is not divisible by (\d+)",
        "tensor-parallel",
        "a layer of size {0} cannot be shared by {1} GPUs",
        "Set another vllm_tensor_parallel_size",
    ),
    Sign(
        r"chat template.*(?:appears path-like, but doesn't exist|looks like a file path, but it failed|path doesn't exist|is not a valid)"
        r"|TemplateSyntaxError|No chat template found",
        "chat-template",
        "the chat template is missing, or is none",
        f"Correct {ROW}.chat_template: a template, or the path of one where the engine runs",
    ),
    # -- GPUs and drivers
    Sign(
        r"quantization method (\S+) is not supported for the current GPU\. Minimum capability: (\d+)(\d)\. Current capability: (\d+)(\d)\b",
        "gpu-too-old",
        "{0} needs a GPU of compute capability {1}.{2}, and this one has {3}.{4}",
        "Choose newer GPUs with vllm_node_selector, or weights of another format",
    ),
    Sign(
        r"FP8 KV cache is not supported .* on (.+?) \(compute capability ([\d.]+)\)",
        "gpu-too-old",
        "{0} (compute capability {1}) has no fp8 KV cache",
        "Set vllm_kv_cache_dtype: auto",
    ),
    Sign(
        r"No valid attention backend found for (.+?) with",
        "no-attention-backend",
        "vLLM has no attention kernel for this model and KV cache on {0}",
        "Set vllm_kv_cache_dtype: auto, or choose other GPUs with vllm_node_selector",
    ),
    Sign(
        r"Bfloat16 is only supported on GPUs with compute capability of at least 8\.0\. Your (.+?) GPU ",
        "dtype-unsupported",
        "{0} does not compute in bfloat16",
        f"Set {ROW}.dtype: half, or choose newer GPUs with vllm_node_selector",
    ),
    Sign(
        r"torch\.(\w+) is not supported for quantization method (\S+)\. Supported dtypes: (.+)",
        "dtype-unsupported",
        "{1} weights cannot be computed in {0}, only in {2}",
        f"Set {ROW}.dtype",
    ),
    Sign(
        r"no kernel image is available for execution",
        "gpu-unsupported",
        "its program has no code for GPUs of this generation",
        "Choose other GPUs with vllm_node_selector, or another vllm_image",
    ),
    Sign(
        r"NVIDIA driver on your system is too old \(found version (\d+)\)",
        "driver-too-old",
        "the NVIDIA driver is too old: CUDA {0}",
        _DRIVER,
    ),
    Sign(r"unsatisfied condition: (\w+ ?>= ?[\d.]+\d)", "driver-too-old", "the NVIDIA driver is too old: {0} is needed", _DRIVER),
    Sign(
        r"driver version is insufficient|forward compatibility was attempted|PTX was compiled with an unsupported toolchain",
        "driver-too-old",
        "the NVIDIA driver is too old for this program",
        _DRIVER,
    ),
    Sign(
        r"No CUDA GPUs are available|Found no NVIDIA driver|libcuda\.so\S*: cannot open|Failed to infer device type|no CUDA-capable device"
        r"|nvidia-container-cli: (?:initialization|device|detection) error|nvml error: driver not loaded",
        "no-gpu",
        "it sees no GPU",
        _SEE_GPU,
    ),
    Sign(
        r"(?:NCCL|nccl) ?error.*?: (.+?)(?:, NCCL version.*| \(run with.*)?$|ncclSystemError|ncclUnhandledCudaError",
        "nccl",
        "the GPUs cannot talk to each other (NCCL)",
        f"Raise vllm_shm_size; {ROW}.env with NCCL_DEBUG: INFO tells more",
        False,
    ),
    Sign(
        r"CUDA error: (.+)|(uncorrectable ECC error)", "cuda-error", "the GPU failed: {0}", "Look at the GPU: nvidia-smi -q, dmesg", False
    ),
    # -- the program and the model
    Sign(r"(?i)exec format error|^Illegal instruction", "wrong-cpu", "its program is built for another CPU", _CPU),
    Sign(
        r"Model architectures \[([^\]]*)\] are not supported for now"
        r"|Model architecture (\S+) (?:was supported in vLLM until|is not supported in-tree)"
        r"|has model type `([^`]+)` but Transformers does not recognize",
        "architecture-unsupported",
        "this version of vLLM cannot serve {0} models",
        "Take a vllm_image with a newer vLLM, or another model",
    ),
    Sign(
        r"trust_remote_code|--trust-remote-code|contains custom code which must be executed|requires you to execute",
        "trust-remote-code",
        "the model brings code of its own, which may not run",
        f"If you trust its publisher: {ROW}.trust_remote_code: true",
    ),
    Sign(
        r"Failed to find C compiler",
        "no-compiler",
        "there is no C compiler, with which vLLM makes the model faster",
        f"Install gcc, or set {ROW}.enforce_eager: true",
    ),
    # -- a router, before the hub: both say 403
    Sign(
        r"ApiException: \(403\)|\w+ is forbidden: User .* cannot (?:list|watch|get)|watch(?:er)? (?:list )?error (?:with )?403",
        "router-not-permitted",
        "it may not look at the pods of its namespace",
        "Run again, so that its Role and RoleBinding are made; a policy of the cluster may have removed them",
    ),
    # -- the hub
    Sign(
        r"GatedRepoError|(?<!private or )gated repo|Access to model \S+ is restricted",
        "hub-gated",
        "the model is gated, and no token opens it",
        _TOKEN,
    ),
    Sign(
        r"RevisionNotFoundError|is not a valid git identifier", "hub-revision-missing", "the hub has no such revision of the model", _NAME
    ),
    Sign(
        r"Invalid credentials in Authorization header|Invalid user token|LocalTokenNotFoundError",
        "hub-token",
        "the hub does not accept the token",
        "Correct hf_token, or remove it",
    ),
    Sign(
        r"RepositoryNotFoundError|Repository Not Found|is not a valid model identifier",
        "hub-repository-missing",
        "the hub has no such model, or it is private",
        _NAME,
    ),
    Sign(r"403 (?:Client Error|Forbidden)", "hub-gated", "the hub does not allow it", _TOKEN),
    Sign(r"401 (?:Client Error|Unauthorized)", "hub-token", "the hub does not accept the token", "Correct hf_token, or remove it"),
    Sign(
        r"429 (?:Client Error|Too Many Requests)",
        "hub-rate-limit",
        "the hub has had too many requests from this address",
        "It goes on by itself; a token (hf_token) raises the limit",
        False,
    ),
    Sign(
        r"outgoing traffic has been disabled|offline mode is enabled|OfflineModeIsEnabled",
        "weights-not-fetched",
        "the weights are not there, and it may not fetch them itself (HF_HUB_OFFLINE)",
        _FETCH,
    ),
    Sign(
        r"We couldn't connect to '([^']+)'|trying to locate the files? on (the Hub)|(CAS service) error"
        r"|5\d\d (?:Server Error|Bad Gateway|Service Unavailable|Gateway Time).*?for url:? '?(https?://[^/']+)",
        "hub-unreachable",
        "{0} cannot be reached",
        "Let that machine reach it, or name a mirror: vllm_hf_endpoint",
        False,
    ),
    Sign(
        r"Name or service not known|Temporary failure in name resolution",
        "name-resolution",
        "a host name cannot be resolved",
        "Look at the DNS of that machine, or of the cluster",
        False,
    ),
    Sign(r"Repo id must .*?: '(/[^']*)'", "model-missing", "there is no folder {0}", f"Correct {ROW}.model, or put the model there"),
    Sign(r"Repo id must .*?: '([^']*)'", "hub-repository-missing", "{0} is no name of a model", _NAME),
    Sign(
        r"Invalid repository ID or local directory specified: '([^']+)'|(\S+) does not appear to have a file named config\.json"
        r"|Unrecognized model in (\S+)\. Should have",
        "no-config",
        "{0} has no config.json of a model",
        f"Correct {ROW}.model, or put the whole model there",
    ),
    # -- files
    Sign(r"Cannot find any model weights with `([^`]+)`", "weights-missing", "{0} has no weights", _FETCH),
    Sign(r"No space left on device|Disk quota exceeded", "disk-full", "the disk is full", _ROOM),
    Sign(r"(?:Read-only file system)(?:: '([^']+)')", "read-only", "{0} cannot be written: it is read-only", "Mount it for writing"),
    Sign(r"Read-only file system", "read-only", "its disk is read-only", "Mount it for writing"),
    Sign(r"(?:Permission denied: '|PermissionError at )([^'\s]+)", "permission-denied", "it may not write or read {0}", _RIGHTS),
    Sign(r"Permission denied|Operation not permitted", "permission-denied", "it may not write or read its files", _RIGHTS),
    Sign(
        r"Error while deserializing header|MetadataIncompleteBuffer|InvalidHeader|HeaderTooLarge|PytorchStreamReader failed"
        r"|invalid load key|UnpicklingError|not a ZIP archive|size mismatch for|Attempted to load weight \(|is not a valid JSON file",
        "weights-corrupt",
        "a file of the model is damaged or incomplete",
        _ANEW,
    ),
    Sign(
        r"(?i)address already in use|FailedToCreateHTTPListener",
        "port-taken",
        "another program has its port",
        "End that program, or leave vllm_engine_port and vllm_router_port out",
    ),
    Sign(
        r"^\S+: (?:line )?(?:\d+: )?(\S+): (?:command )?not found",
        "executable-missing",
        "there is no program {0}",
        "Take a vllm_image that has it",
    ),
]

# What helps where it is a router that says so.
ROUTER_ADVICE = {
    "unknown-flag": "Take a vllm_router_image of the version that docs/routers.md names",
    "bad-flag-value": "Take a vllm_router_image of the version that docs/routers.md names",
    "killed": "Raise vllm_router_memory_limit",
}

_REGISTRY = "Let the nodes reach the registry, or name an image that they reach: {variable}"
IMAGE_SIGNS = [
    Sign(r"no match for platform|no matching manifest for|exec format error", "wrong-cpu", "{image} is not made for the node's CPU", _CPU),
    Sign(
        r"toomanyrequests|429 Too Many|pull rate limit",
        "image-rate-limit",
        "the registry has had too many requests",
        "It goes on by itself",
        False,
    ),
    Sign(r"x509: (.+)", "registry-certificate", "the registry's certificate is not accepted: {0}", "Let the nodes trust it"),
    Sign(r"no space left on device", "node-disk-full", "the node's disk has no room for {image}", "Make room on the node", False),
    Sign(
        r"(i/o timeout|connection refused|no such host|connection reset|network is unreachable|no route to host|TLS handshake timeout"
        r"|deadline exceeded|server misbehaving|Temporary failure|unexpected EOF|: EOF\b|50[0234] )",
        "registry-unreachable",
        "the registry of {image} cannot be reached: {0}",
        _REGISTRY,
        False,
    ),
    Sign(
        r"denied|unauthorized|401 Unauthorized|403 Forbidden|insufficient_scope|authentication required|no basic auth credentials",
        "image-not-allowed",
        "the registry does not give {image}: it does not exist, or needs a login",
        "Correct {variable}, or name a Secret with the login: {secrets}",
    ),
    Sign(r"not found|manifest unknown|NotFound|name unknown", "image-not-found", "there is no image {image}", "Correct {variable}"),
]

CONFIG_SIGNS = [
    Sign(r'(?i)secret "([^"]+)" not found', "secret-missing", "there is no Secret {0}", "Make it, or correct the variable that names it"),
    Sign(r'(?i)configmap "([^"]+)" not found', "configmap-missing", "there is no ConfigMap {0}", "Run again, so that it is made"),
    Sign(
        r"(?i)couldn't find key (\S+) in (secret|configmap) [^/\s]+/(\S+)|references non-existent (?:secret|config) key: (\S+)",
        "key-missing",
        "there is no key {0} in its Secret or ConfigMap",
        "Add it, or correct the variable that names it (vllm_api_key_secret, vllm_hf_token_secret)",
    ),
    Sign(
        r"runAsNonRoot and image (?:will run as root|has non-numeric user)",
        "runs-as-root",
        "the image would run as root, which is not allowed here",
        "Set vllm_run_as_user to a number above 0, or take another image",
    ),
]

START_SIGNS = [
    Sign(
        r'exec: "([^"]+)": (?:stat \S+: )?(?:no such file|executable file not found|permission denied)'
        r"|executable file `?([^`\s]+)`? not found",
        "executable-missing",
        "the image has no program {0}",
        "Correct {variable}",
    ),
    Sign(r"no runtime for \"(\S+)\" is configured", "runtime-class", "the node has no container runtime {0}", "Correct vllm_runtime_class"),
    *(sign for sign in LOG_SIGNS if sign.cause in ("driver-too-old", "no-gpu", "wrong-cpu")),
    Sign(r"nvidia-container-cli: (.+)", "no-gpu", "the node's GPU cannot be used: {0}", _SEE_GPU),
]

REFUSAL_SIGNS = [
    Sign(r"failed calling webhook \"?([^\" ]+)", "webhook-unreachable", "the webhook {0} of the cluster does not answer", "Mend it", False),
    Sign(
        r"admission webhook \"([^\"]+)\" denied the request",
        "admission",
        "the policy {0} of the cluster forbids such pods",
        "Ask its owner",
    ),
    Sign(
        r"exceeded quota: ([^,]+), requested: (.+?), used: (.+?), limited: (.+)",
        "quota",
        "the quota {0} does not allow it: {1} asked, {2} in use, {3} allowed",
        "Raise the quota, or ask for less (vllm_gpu_count, vllm_memory_request)",
    ),
    Sign(r"(failed quota: .+)", "quota", "{0}", "Set the requests and limits that the quota asks for"),
    Sign(
        r"violates PodSecurity \"([^\"]+)\": (.+)",
        "pod-security",
        "the namespace's Pod Security Standard {0} forbids such pods: {1}",
        "Take another namespace (llm_namespace), or relax its label",
    ),
    Sign(
        r"((?:maximum|minimum) .+ usage per \w+ is .+)",
        "limit-range",
        "a LimitRange of the namespace forbids such sizes: {0}",
        "Change the requests and limits (vllm_memory_request, vllm_memory_limit, vllm_cpu_request), or the LimitRange",
    ),
    Sign(r"no PriorityClass with name (\S+) was found", "priority-class", "there is no PriorityClass {0}", "Correct vllm_priority_class"),
    Sign(r"RuntimeClass \"?([^\" ]+)\"? not found", "runtime-class", "there is no RuntimeClass {0}", "Correct vllm_runtime_class"),
]


def recognise(signs: t.Iterable[Sign], text: str, **fields: str) -> t.Optional[LogCause]:
    """Return what the first of *signs* that is in *text* says, None where there is none."""
    for sign in signs:
        found = re.search(sign.pattern, text, re.MULTILINE)
        if found:
            groups = [group for group in found.groups() if group is not None]
            start = text.rfind("\n", 0, found.start()) + 1
            line = text[start:].partition("\n")[0][:LONGEST_LINE]
            what, advice = (words.format(*groups, **fields) for words in (sign.what, sign.advice))
            return LogCause(sign.cause, what, line, advice, sign.certain)
    return None
