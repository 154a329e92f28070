"""One contender of ``esembed bench encode``, in a process of its own.

Run as a script, by any interpreter: sentence-transformers in an environment of its own (where its
optional backends are installed) takes part like the one at hand. Reads commands as JSON lines on stdin,
answers JSON lines on stdout; vectors go through a .npy file.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

STARTED = time.perf_counter()


def _ours(job: dict[str, Any]) -> Any:
    from esembed.encode.base import RuntimeOptions
    from esembed.encode.registry import load
    from esembed.plan.params import EncoderParams

    runtime = RuntimeOptions(
        backend=job["backend"], dtype=job["dtype"], threads=job["threads"], device=job["device"]
    )
    encoder: Any = load(job["spec"], EncoderParams(max_seq_length=job["max_seq_length"]), runtime)

    def dense(found: Any) -> Any:
        if not job["sparse"]:
            return found
        import numpy as np

        place = {token: column for column, token in enumerate(encoder.vocabulary)}
        whole = np.zeros((len(found), len(place)), np.float32)
        for row, vector in zip(whole, found, strict=True):
            row[[place[token] for token in vector.indices]] = vector.values
        return whole

    return encoder.encode_document, encoder.encode_query, dict(encoder.info.runtime), dense


def _theirs_dense(model: Any, found: Any) -> Any:
    """Their sparse tensors as an array, without the special tokens, which ours leave out."""
    whole = found.to_dense().float().cpu().numpy()
    whole[:, model.tokenizer.all_special_ids] = 0
    return whole


def _theirs(job: dict[str, Any]) -> Any:
    import sentence_transformers

    kind: Any = sentence_transformers.SentenceTransformer
    if job["sparse"]:
        kind = sentence_transformers.SparseEncoder
    arguments: dict[str, Any] = {}
    if job["dtype"] == "bfloat16":
        arguments["dtype"] = "bfloat16"
    device = None if job["device"] == "auto" else job["device"]
    model: Any = kind(job["model"], backend=job["backend"], device=device, model_kwargs=arguments or None)
    model.max_seq_length = job["max_seq_length"]
    import torch

    if job["threads"]:
        torch.set_num_threads(job["threads"])

    facts = {"backend": job["backend"], "dtype": _their_dtype(model, job)}
    if job["sparse"]:
        return model.encode_document, model.encode_query, facts, lambda found: _theirs_dense(model, found)

    def document(texts: list[str]) -> Any:
        return model.encode_document(texts, convert_to_numpy=True)

    def query(texts: list[str]) -> Any:
        return model.encode_query(texts, convert_to_numpy=True)

    return (
        document,
        query,
        {"backend": job["backend"], "dtype": _their_dtype(model, job)},
        lambda found: found,
    )


def _their_dtype(model: Any, job: dict[str, Any]) -> str:
    """What was asked for; of OpenVINO, which chooses by itself, what it computes in."""
    if job["backend"] != "openvino":
        return str(job["dtype"])
    inner = model[0].auto_model
    for name in ("request", "compiled_model"):
        compiled: Any = getattr(inner, name, None)
        if hasattr(compiled, "get_property"):
            hint = str(compiled.get_property("INFERENCE_PRECISION_HINT"))
            return "bfloat16" if "bf" in hint else "float32"
    return str(job["dtype"])


def _gemm(job: dict[str, Any]) -> dict[str, float]:
    """The fastest matrix product that any engine here reaches, FLOP/s, by dtype."""
    import numpy as np

    size = 2048
    best: dict[str, float] = {}

    def measure(dtype: str, product: Any) -> None:
        product()
        times: list[float] = []
        until = time.perf_counter() + job["seconds"]
        while time.perf_counter() < until or len(times) < 3:
            began = time.perf_counter()
            product()
            times.append(time.perf_counter() - began)
        best[dtype] = max(best.get(dtype, 0.0), 2 * size**3 / min(times))

    a = np.random.default_rng(0).random((size, size), dtype=np.float32)
    measure("float32", lambda: a @ a)
    try:
        import torch
    except ModuleNotFoundError:
        pass
    else:
        if job["threads"]:
            torch.set_num_threads(job["threads"])
        device = "cuda" if torch.cuda.is_available() and job["device"] in ("auto", "cuda") else "cpu"
        # In software a product takes a minute: on CPUs without instructions for it nothing runs in bfloat16.
        for name in ("float32", *(["bfloat16"] if job["bfloat16"] or device == "cuda" else [])):
            m = torch.rand(size, size).to(device, getattr(torch, name))

            def product(m: Any = m) -> None:
                torch.mm(m, m)
                if device == "cuda":
                    torch.cuda.synchronize()

            measure(name, product)
    try:
        import openvino
        from openvino import opset13 as ov
    except ModuleNotFoundError:
        return best
    x = ov.parameter([size, size], np.float32)
    graph = openvino.Model([ov.matmul(x, ov.constant(a), False, True).output(0)], [x], "gemm")
    hints = {"float32": "f32", **({"bfloat16": "bf16"} if job["bfloat16"] else {})}
    for name, hint in hints.items():
        settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": hint}
        if job["threads"]:
            settings["INFERENCE_NUM_THREADS"] = job["threads"]
        request = openvino.Core().compile_model(graph, "CPU", settings).create_infer_request()
        measure(name, lambda request=request: request.infer([a], share_inputs=True))
    return best


def _peak_bytes() -> int:
    try:
        with open("/proc/self/status", encoding="ascii") as handle:
            for line in handle:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def main() -> None:
    """Serve commands until stdin ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print must not get between the answers

    def answer(**value: Any) -> None:
        answers.write(json.dumps(value) + "\n")
        answers.flush()

    document: Any = None
    query: Any = None
    dense: Any = None
    texts: list[str] = []
    queries: list[str] = []
    for line in sys.stdin:
        job = json.loads(line)  # from the process that started this one, as is the file of texts below
        try:
            if job["do"] == "load":
                document, query, facts, dense = _ours(job) if job["kind"] == "ours" else _theirs(job)
                answer(runtime=facts, seconds=time.perf_counter() - STARTED)
            elif job["do"] == "texts":
                with open(job["path"], encoding="utf-8") as handle:
                    value = json.load(handle)
                texts, queries = value["texts"], value["queries"]
                answer()
            elif job["do"] == "vectors":
                import numpy as np

                np.save(job["path"], np.asarray(dense(document(texts)), dtype=np.float32))
                answer()
            elif job["do"] == "documents":
                began, worked = time.perf_counter(), time.process_time()
                document(texts)
                spent = time.process_time() - worked
                answer(seconds=time.perf_counter() - began, cpu_seconds=spent)
            elif job["do"] == "queries":
                times = []
                for text in queries[job["start"] : job["start"] + job["count"]]:
                    began = time.perf_counter()
                    query([text])
                    times.append(time.perf_counter() - began)
                answer(seconds=times)
            elif job["do"] == "peak":
                answer(bytes=_peak_bytes())
            elif job["do"] == "gemm":
                answer(flops=_gemm(job))
        except Exception as error:  # noqa: BLE001 - told to the parent
            answer(error=f"{type(error).__name__}: {str(error)[:500]}")


if __name__ == "__main__":
    sys.path[0:1] = [os.environ["ESEMBED_BENCH_PATH"]] if "ESEMBED_BENCH_PATH" in os.environ else []
    main()
