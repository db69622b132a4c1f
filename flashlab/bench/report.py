"""What a record says, as tables for a terminal."""

from flashlab.bench import speed

WAYS = ("forward", "backward")


def tables(measurements):
    """Tables of all that `flashlab bench` measures."""
    yield _speed(measurements["speed"])
    yield _features(measurements["features"], measurements["documents"])
    yield _decode(measurements["decode"], measurements["limits"])
    yield _ladder(measurements["ladder"])
    yield _launch(measurements["launch"])


def _table(title, *columns):
    from rich.table import Table

    return Table(*columns, title=title, title_justify="left")


def _speed(rows):
    """Our TFLOP/s, and how many times as long each peer takes, forward and backward."""
    names = [name for name in rows[0]["peers"] if name != "flashlab"]
    table = _table(
        "TFLOP/s of flashlab, and each peer's time over flashlab's (above 1: flashlab is faster)", "problem", "forward, backward", *names
    )
    for row in rows:
        cells = [f"S={row['seqlen']}, D={row['head_dim']}, {row['kind']}, {row['dtype']}"]
        cells.append(", ".join(f"{speed.tflops(row, 'flashlab', way):.0f}" for way in WAYS))
        for name in names:
            ratios = [speed.ratio(row, name, way) for way in WAYS]
            cells.append("" if None in ratios else ", ".join(f"{ratio:.2f}" for ratio in ratios))
        table.add_row(*cells)
    return table


def _features(rows, documents):
    title = "Time over plain attention of the same visible area; peer's time over flashlab's"
    table = _table(title, "D", "feature", "visible", "forward, backward", "peer")
    for row in rows:
        if "forward_ratio" not in row:  # plain attention itself
            continue
        cells = [row["feature"], f"{row['visible']:.0%}", ", ".join(f"{row[f'{way}_ratio']:.2f}" for way in WAYS)]
        beside = {name: ", ".join(f"{times[f'{way}_ms'] / row[f'{way}_ms']:.2f}" for way in WAYS) for name, times in row["peers"].items()}
        cells.append("; ".join(f"{name} {ratios}" for name, ratios in beside.items()))
        table.add_row(str(row["head_dim"]), *cells)
    for row in documents:
        ratios = ", ".join(f"{row[f'flex_{way}_ms'] / row[f'flashlab_{way}_ms']:.2f}" for way in WAYS)
        table.add_row(str(row["head_dim"]), row["feature"], f"{row['visible']:.0%}", "", f"FlexAttention {ratios}")
    return table


def _decode(rows, limits):
    """How near decoding comes to a copy's bytes a second, and how many times as long everybody else takes."""
    first = rows[0]
    title = f"Decoding, {first['heads']} heads over {first['heads_kv']}, head dim {first['head_dim']}; times over flashlab's"
    names = list(dict.fromkeys(name for row in rows for name in row["ms"] if name != "flashlab"))
    table = _table(title, "sequences × keys", "cache", "ms", "share of a copy's speed", *names)
    for row in rows:
        ours = row["ms"]["flashlab"]
        ratios = [f"{row['ms'][name] / ours:.2f}" if name in row["ms"] else "" for name in names]
        share = row["bytes"] / ours / 1e9 / limits["copy_tb_s"]
        table.add_row(f"{row['batch']} × {row['capacity']:,}", f"{row['bytes'] / 2**20:,.0f} MiB", f"{ours:.3f}", f"{share:.0%}", *ratios)
    return table


def _ladder(rows):
    first = rows[0]
    title = f"The ladder: {first['heads']} heads, {first['seqlen']} tokens, head dim {first['head_dim']}"
    table = _table(title, "rung", "on", "forward", "backward", "peak, backward", "bytes moved, forward")
    for row in rows:
        times = ["" if row[f"{way}_ms"] is None else f"{row[f'{way}_ms']:,.2f} ms" for way in WAYS]
        sizes = ["" if row[key] is None else f"{row[key] / 2**20:,.1f} MiB" for key in ("backward_peak_bytes", "bytes_moved")]
        table.add_row(row["rung"], row["device"], *times, *sizes)
    return table


def _launch(row):
    table = _table("CPU time of a small call, in microseconds", "", "flashlab", "SDPA")
    for words, key in (("with gradients", "us"), ("without", "no_grad_us")):
        table.add_row(words, *(f"{row[f'{name}_{key}']:.0f}" for name in ("flashlab", "sdpa")))
    return table
