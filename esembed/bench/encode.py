"""``esembed bench encode``: our backends against sentence-transformers, interleaved in one run."""

from __future__ import annotations

import importlib.util
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from esembed.bench.encode_run import Contender, EncodeBench, run_bench
from esembed.bench.encode_shapes import SHAPES, flops_per_token, make_shape
from esembed.bench.encode_texts import mixed_texts
from esembed.encode.backends import accelerator_present
from esembed.encode.backends.cpu import emulated, has_bfloat16
from esembed.encode.models.folder import ModelFiles, open_model, read_folder
from esembed.encode.models.tokenizer import TextTokenizer
from esembed.errors import EncoderError

__all__ = ["app", "bench_encode", "default_contenders"]

app = typer.Typer(help="Encoders: tokens a second, latency, memory, against the best peer.")


def default_contenders(
    peer_python: str | None = None, ours: Sequence[str] = (), *, device: str = "auto"
) -> list[Contender]:
    """sentence-transformers' default first, its other backends, then ours; only what this machine can do.

    Args:
        peer_python: an interpreter whose environment has sentence-transformers with optional backends.
        ours: ``backend-dtype`` (``openvino-float32`` …); empty for every one that is installed.
        device: what they run on.
    """
    peer = peer_python or sys.executable
    found = [Contender(name="ST default", kind="st", backend="torch", dtype="float32", python=peer)]
    # Where bfloat16 is emulated nobody would run it, and one round of it takes minutes
    on_cpu = device == "cpu" or (device == "auto" and not accelerator_present())
    bfloat16 = has_bfloat16() or not on_cpu
    if bfloat16:
        found.append(Contender(name="ST bf16", kind="st", backend="torch", dtype="bfloat16", python=peer))
    for backend in ("openvino", "onnx"):
        found.append(Contender(name=f"ST {backend}", kind="st", backend=backend, dtype="auto", python=peer))
    names = list(ours)
    if not names:
        names = ["auto-auto"]
        if importlib.util.find_spec("openvino"):
            names += ["openvino-float32", *(["openvino-bfloat16"] if has_bfloat16() else [])]
        if importlib.util.find_spec("torch") and importlib.util.find_spec("transformers"):
            names += ["torch-float32", *(["torch-bfloat16"] if bfloat16 else [])]
    for name in names:
        backend, _, dtype = name.partition("-")
        found.append(Contender(name=f"esembed {backend} {dtype}", kind="ours", backend=backend, dtype=dtype))
    return found


@app.command()
def bench_encode(
    spec: Annotated[
        str,
        typer.Argument(
            help="minilm, hf:NAME-or-FOLDER, splade:NAME-or-FOLDER, or a model of random weights: "
            f"{', '.join(f'random:{name}' for name in SHAPES)}."
        ),
    ] = "minilm",
    texts: Annotated[int, typer.Option(help="Texts in the corpus.", min=2)] = 400,
    queries: Annotated[int, typer.Option(help="Queries, encoded one at a time.", min=2)] = 200,
    rounds: Annotated[int, typer.Option(help="Measured rounds, each contender in turn.", min=1)] = 5,
    corpus: Annotated[Path | None, typer.Option(help="JSONL with text, or a text a line.")] = None,
    max_seq_length: Annotated[int | None, typer.Option(help="Tokens kept of each text.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads for everyone.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda …")] = "auto",
    configuration: Annotated[
        list[str] | None, typer.Option(help="openvino-float32, torch-bfloat16 …")
    ] = None,
    baseline_python: Annotated[
        str | None, typer.Option(help="Interpreter with sentence-transformers and its optional backends.")
    ] = None,
    usd_per_hour: Annotated[float | None, typer.Option(help="The machine's price.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Draw the result (needs matplotlib).")] = None,
) -> None:
    """Measure encoders on this machine, against sentence-transformers.

    Every contender runs in a process of its own and they take turns in each round, so that what else
    the machine does meets all alike; ratios are medians of per-round ratios. Peers that aren't
    installed are named as absent.

    Example:  esembed bench encode --usd-per-hour 0.17
    """
    for name in configuration or ():
        note = emulated(name.partition("-")[2]) if device in ("auto", "cpu") else None
        if note is not None:
            typer.echo(f"{name}: {note}", err=True)
    result = measure(
        spec,
        texts=texts,
        queries=queries,
        rounds=rounds,
        corpus=corpus,
        max_seq_length=max_seq_length,
        threads=threads,
        device=device,
        contenders=default_contenders(baseline_python, configuration or (), device=device),
        usd_per_hour=usd_per_hour,
    )
    if plot is not None:
        draw(result, plot)
    if as_json:
        from esembed.terminal import print_json

        print_json(asdict(result))
        return
    show(result)


def measure(
    spec: str,
    *,
    texts: int,
    queries: int,
    rounds: int,
    contenders: Sequence[Contender],
    corpus: Path | None = None,
    max_seq_length: int | None = None,
    threads: int | None = None,
    device: str = "auto",
    usd_per_hour: float | None = None,
    starts: int = 2,
    gemm_seconds: float = 1.0,
) -> EncodeBench:
    """Prepare model and texts, and run; see :func:`esembed.bench.encode_run.run_bench`.

    Raises:
        EncoderError: *spec* names no model.
    """
    from esembed.terminal import note

    with tempfile.TemporaryDirectory(prefix="esembed-bench-model-") as scratch:
        family, _, name = spec.partition(":")
        if family == "random":
            if name not in SHAPES:
                raise EncoderError(f"there is no shape {name!r} (there are: {', '.join(SHAPES)})", spec=spec)
            note(f"making a model of random weights: {name}, {SHAPES[name]}")
            folder = make_shape(name, Path(scratch) / "model")
            spec = f"{'splade' if name == 'splade' else 'hf'}:{folder}"
        files = _files(spec)
        sparse = spec.startswith("splade:")
        limit = max_seq_length or files.max_seq_length
        documents = mixed_texts(texts, source=corpus)
        tokenized = TextTokenizer(files, limit)(documents)
        lengths = [len(ids) for ids in tokenized.ids]
        asked = [" ".join(text.split()[:8]) for text in mixed_texts(queries, source=corpus, seed=11)]
        # attention's cost grows with the length, so the mean is weighted by tokens
        weighted = sum(n * n for n in lengths) / sum(lengths)
        return run_bench(
            contenders,
            documents,
            asked,
            spec=spec,
            model=str(files.folder),
            tokens=sum(lengths),
            max_seq_length=limit,
            rounds=rounds,
            threads=threads,
            device=device,
            flops_per_token=flops_per_token(files.config, weighted, masked_lm=sparse),
            usd_per_hour=usd_per_hour,
            starts=starts,
            gemm_seconds=gemm_seconds,
            say=note,
        )


def _files(spec: str) -> ModelFiles:
    from esembed.encode.models.sparse_folder import SpladeSide, open_sparse_model
    from esembed.encode.transformer.minilm import find_minilm

    if spec == "minilm":
        return read_folder(find_minilm())
    if not spec.startswith("splade:"):
        return open_model(spec.removeprefix("hf:"))
    side = open_sparse_model(spec.removeprefix("splade:")).document
    if not isinstance(side, SpladeSide):
        raise EncoderError(
            f"{spec} encodes documents without a network; there is nothing to measure", spec=spec
        )
    return side.files


def show(result: EncodeBench) -> None:
    """The table, and a line for what the numbers were measured on."""
    from esembed.terminal import note, print_table

    def number(value: float | None, digits: int = 2) -> str:
        return "" if value is None else f"{value:,.{digits}f}"

    columns = [
        "", ">tokens/s", ">per CPU s", ">ratio", ">to best peer", ">of GEMM peak", ">cos min", ">cos mean",
        ">q p50 ms", ">q p99 ms", ">q ratio", ">load s", ">peak MiB", ">$/M tokens",
    ]  # fmt: skip
    rows = [
        [
            row.name,
            number(row.tokens_per_second, 0),
            number(row.tokens_per_cpu_second, 0),
            number(row.ratio) or "1.00",
            number(row.ratio_to_peer),
            "" if row.gemm_share is None else f"{row.gemm_share:.0%}",
            number(row.cosine_min, 5),
            number(row.cosine_mean, 5),
            number(row.query_p50_ms),
            number(row.query_p99_ms),
            number(row.query_ratio),
            number(row.load_seconds),
            number(row.peak_bytes / 2**20, 0),
            number(row.usd_per_million_tokens, 4),
        ]
        for row in result.rows
    ]
    print_table(columns, rows, title=f"{result.texts} texts, {result.tokens:,} tokens")
    peaks = ", ".join(f"{name} {flops / 1e9:,.0f} GFLOP/s" for name, flops in result.gemm_flops.items())
    note(f"matrix product at its best here: {peaks}")
    for name, reason in result.absent.items():
        note(f"absent: {name} ({reason.splitlines()[0][:160]})")


def draw(result: EncodeBench, path: Path) -> None:
    """Bars of tokens/s with each round as a dot, and query latency.

    Raises:
        typer.BadParameter: matplotlib isn't installed.
    """
    try:
        import matplotlib
    except ModuleNotFoundError as error:
        raise typer.BadParameter("a plot needs matplotlib: pip install matplotlib") from error
    matplotlib.use("agg")
    from matplotlib import pyplot

    names = [row.name for row in result.rows]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 0.5 * len(names) + 1.5), sharey=True)
    left.barh(names, [row.tokens_per_second for row in result.rows], color="#4878a8")
    for place, row in enumerate(result.rows):
        left.plot(row.rounds, [place] * len(row.rounds), "k.", markersize=3)
    left.set_xlabel("tokens/s")
    left.invert_yaxis()
    right.barh(names, [row.query_p50_ms for row in result.rows], color="#a87848")
    right.set_xlabel("query p50, ms")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
