"""How fast the SPLADE head is, and what memory it takes, against the naive formulation.

``python -m esembed.bench.splade_head [--rows 16 --length 128 --dtype float32 --mixed --json]``

Naive is what the papers write and sentence-transformers' ``SpladePooling`` does: all logits (rows ×
length × vocabulary), masked, log(1 + relu), maximum over the length. Ours is ``SpladeHead`` in torch and
in OpenVINO. All start from the same random hidden states of a BERT-base-sized head (hidden 768,
vocabulary 30,522), and the results are compared. Times are taken in one process, round by round in turn,
and ratios are medians of per-round ratios; peak memory in a fresh process for each, from after a small
warm-up call (weights loaded and packed) to the highest point of one call. Processor time is all threads'
added up: on a busy machine it is the steadier figure.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from esembed.encode.backends.base import Outputs
from esembed.encode.transformer.splade_head import SpladeHead, rows_of, weights_of

__all__ = ["main"]

HIDDEN, VOCABULARY = 768, 30_522
FORMULATIONS = ("naive", "torch", "openvino")

Array = npt.NDArray[np.float32]
Run = Callable[[Array, npt.NDArray[np.int64]], Outputs]


def build(which: str, folder: Path, dtype: str, threads: int) -> Run:
    """Hidden states (rows, length, hidden) and lengths → weights, in the shape that the formulation gives."""
    return _openvino(folder, dtype, threads) if which == "openvino" else _torch(which, folder, dtype, threads)


def _quiet(transformers: Any) -> None:
    transformers.utils.logging.disable_progress_bar()


def make_head(folder: Path) -> None:
    """A random masked-LM checkpoint without layers: only its head counts here."""
    import torch
    import transformers

    _quiet(transformers)
    torch.manual_seed(0)
    config = transformers.BertConfig(hidden_size=HIDDEN, vocab_size=VOCABULARY, num_hidden_layers=0)
    model: Any = transformers.BertForMaskedLM(config)
    # about 350 positive entries a text, as learned models have
    torch.nn.init.normal_(model.get_output_embeddings().bias, -2.6, 0.5)
    model.save_pretrained(str(folder))


def _torch(which: str, folder: Path, dtype: str, threads: int) -> Run:
    import torch
    import transformers

    _quiet(transformers)
    torch.set_num_threads(threads)
    kind = getattr(torch, dtype)
    model = transformers.AutoModelForMaskedLM.from_pretrained(str(folder), dtype=kind).eval()
    head = SpladeHead()

    @torch.inference_mode()
    def naive(hidden: Array, lengths: npt.NDArray[np.int64]) -> Outputs:
        x = torch.from_numpy(hidden).to(kind)
        mask = (torch.arange(x.shape[1])[None, :] < torch.from_numpy(lengths)[:, None]).to(kind)
        logits = model.cls(x) * mask[:, :, None]
        return (np.asarray(logits.relu_().log1p_().max(dim=1)[0].float().numpy()),)

    @torch.inference_mode()
    def ours(hidden: Array, lengths: npt.NDArray[np.int64]) -> Outputs:
        x = torch.from_numpy(hidden).to(kind)
        mask = torch.arange(x.shape[1])[None, :] < torch.from_numpy(lengths)[:, None]
        offsets = torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)]))
        values, ids, counts = (one.numpy() for one in head.torch(model, x[mask], offsets))
        return weights_of(values, "relu"), ids, counts

    return naive if which == "naive" else ours


def _openvino(folder: Path, dtype: str, threads: int) -> Run:
    import openvino
    from openvino import opset13 as ov

    from esembed.encode.backends.openvino_graph import Graph
    from esembed.encode.models.folder import read_folder

    precision = "bf16" if dtype == "bfloat16" else "f32"
    graph = Graph(read_folder(folder), precision)
    hidden = ov.parameter([-1, -1, HIDDEN], np.float32)
    mask = ov.parameter([-1, -1], np.float32)
    outputs = SpladeHead().openvino(graph, hidden, mask)
    model = openvino.Model([o.output(0) for o in outputs], [hidden, mask], "splade_head")
    settings = {"INFERENCE_PRECISION_HINT": precision, "NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": threads}
    request = openvino.Core().compile_model(model, "CPU", settings).create_infer_request()

    def run(values: Array, lengths: npt.NDArray[np.int64]) -> Outputs:
        real = (np.arange(values.shape[1])[None, :] < lengths[:, None]).astype(np.float32)
        request.infer([values, real], share_inputs=True)
        return (weights_of(np.array(request.output_tensors[0].data), "relu"),)

    return run


def dense(outputs: Outputs) -> Array:
    """Weights as (rows, vocabulary), to compare them."""
    found = list(rows_of(outputs))
    whole = np.zeros((len(found), VOCABULARY), np.float32)
    for row, (ids, values) in zip(whole, found, strict=True):
        row[slice(None) if ids is None else ids] = values
    return whole


def batch(rows: int, length: int, mixed: bool) -> tuple[Array, npt.NDArray[np.int64]]:
    """Random hidden states; lengths all the same, or between a quarter and the whole (the longest whole)."""
    rng = np.random.default_rng(0)
    hidden = rng.standard_normal((rows, length, HIDDEN)).astype(np.float32)
    lengths = rng.integers(length // 4, length + 1, rows) if mixed else np.full(rows, length)
    lengths[0] = length
    return hidden, lengths.astype(np.int64)


def _status(name: str) -> int:
    """A line of /proc/self/status, in bytes."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {name}")


def _peak(which: str, folder: str, dtype: str, threads: int, rows: int, length: int, mixed: bool) -> int:
    run = build(which, Path(folder), dtype, threads)
    run(*batch(1, 8, False))
    values, lengths = batch(rows, length, mixed)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the high-water mark starts again
    before = _status("VmRSS")
    run(values, lengths)
    return max(0, _status("VmHWM") - before)


def measure(
    rows: int, length: int, dtype: str, *, mixed: bool, rounds: int, threads: int
) -> dict[str, dict[str, Any]]:
    """By formulation: milliseconds (median) and their ratio to naive's, peak bytes and their share of
    naive's, the largest difference of a weight."""
    with tempfile.TemporaryDirectory() as name:
        make_head(Path(name))
        runs = {which: build(which, Path(name), dtype, threads) for which in FORMULATIONS}
        values, lengths = batch(rows, length, mixed)
        results = {which: dense(run(values, lengths)) for which, run in runs.items()}
        times: dict[str, list[float]] = {which: [] for which in FORMULATIONS}
        work: dict[str, list[float]] = {which: [] for which in FORMULATIONS}
        for _ in range(rounds):
            for which, run in runs.items():
                started, used = time.perf_counter(), time.process_time()
                run(values, lengths)
                times[which].append(time.perf_counter() - started)
                work[which].append(time.process_time() - used)
        with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
            peaks = {
                which: pool.apply(_peak, (which, name, dtype, threads, rows, length, mixed))
                for which in FORMULATIONS
            }
    report: dict[str, dict[str, Any]] = {}
    for which in FORMULATIONS:
        ratios = [n / t for n, t in zip(times["naive"], times[which], strict=True)]
        report[which] = {
            "milliseconds": statistics.median(times[which]) * 1e3,
            "speed_ratio": statistics.median(ratios),
            "processor_milliseconds": statistics.median(work[which]) * 1e3,
            "peak_bytes": peaks[which],
            "memory_share": peaks[which] / max(1, peaks["naive"]),
            "largest_difference": float(np.abs(results[which] - results["naive"]).max()),
        }
    return report


def main(arguments: list[str] | None = None) -> int:
    """The command line; prints a table, or JSON."""
    from esembed.encode.backends.cpu import available_threads, has_amx

    parser = argparse.ArgumentParser(prog="python -m esembed.bench.splade_head", description=__doc__)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--length", type=int, default=128, help="tokens")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--mixed", action="store_true", help="texts of a quarter to the whole length")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=available_threads())
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    report = measure(
        options.rows,
        options.length,
        options.dtype,
        mixed=options.mixed,
        rounds=options.rounds,
        threads=options.threads,
    )
    setting = {k: v for k, v in vars(options).items() if k != "json"} | {"amx": has_amx()}
    if options.json:
        print(json.dumps({"setting": setting, "formulations": report}, indent=2))
        return 0
    print(", ".join(f"{k} {v}" for k, v in setting.items()))
    print(f"{'':10} {'ms':>8} {'speed':>7} {'cpu ms':>8} {'peak MiB':>9} {'memory':>7} {'difference':>11}")
    for which, row in report.items():
        print(
            f"{which:10} {row['milliseconds']:8.0f} {row['speed_ratio']:6.2f}x "
            f"{row['processor_milliseconds']:8.0f} "
            f"{row['peak_bytes'] / 2**20:9.0f} {row['memory_share']:7.3f} {row['largest_difference']:11.2e}"
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
