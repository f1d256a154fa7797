"""The page's part on what the data, the training and the measures were, with the numbers of the cells."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import fill

from benchmarks.copying.drawings import GALLERY
from benchmarks.copying.figures import Results
from benchmarks.copying.plan import Cell

__all__ = ["introduction"]

TEXT = """## How it was measured

Written by `scripts/bench copying` from the cells in `docs/benchmarks/copying/`: **{done} of {all} cells** are there. A
cell is a method on a stream and a seed. Figures pool the seeds that are there.

**Base.** `{base}`, trained on six icon sets without OpenMoji; its card says what it can draw. Fine-tunes run on
OpenMoji, a style that it has never seen, at {resolution} pixels; the shards hold pictures of {side} pixels.

**Streams.** {mixed}. Each is read {passes} times. Exposures are those of a run without a filter. An *exact* repeat is
the same file; a *family* is one picture under many files (cropped, mirrored, recoloured, compressed, turned, under a
banner); a *template* is one caption and one thing on many grounds; *paraphrases* are one file under many captions. All
methods take **{steps} steps**, but those that stop early. What leaves rows out reads the others more often; the table
of costs says how often.

**Training.** The whole UNet, batch {batch}, AdamW {lr:g}, cosine, caption dropout {dropout:g} (the paper's rule: none),
one CPU thread ({machine}). Latents and captions are cached (random token addition: neither).

**What comes back.** {images} drawings of each caption, DDIM with {sampling} steps, guidance {guidance:g}. *Own picture
nearest*: among {gallery} pictures drawn at random, its own one among them; a family counts as one picture, by eight of
its own. A good base is often nearest to a caption's picture without having seen it. So all tables have the **excess**:
the rate of training pairs minus that of {held_out} held-out pairs in the same model. Three judges compare: pixels at
32x32; the worst of sixteen tiles; and an image-text encoder, which compares what is shown. *Copies by the strict judge*
are nearest to their own picture among all of the stream's, and nearer than 95 % of held-out pictures lie to theirs.

**What was learned.** Held-out loss, relative to the oracle's, which is trained on each pair once by the truth; and how
often a drawing of a held-out caption is recognised among twenty held-out captions, by the encoder, which knows all of
OpenMoji.

**Dropped.** At least half of the last quarter of a pair's visits trained nothing, or its group ended condemned.
Intervals are 95 %, over pairs; they say nothing of other trainings, so held-out losses are shown by seed too.
{smallest}
"""


def introduction(results: Results, wanted: Sequence[Cell]) -> str:
    """As Markdown; empty where no trained cell of the mixed stream is there."""
    cells = results.of("none", "mixed") or [cell for cell in results.cells.values() if cell["stream"] == "mixed"]
    if not cells:
        return ""
    cell = cells[0]
    stream, protocol, machine = cell["settings"]["stream"], cell["settings"]["protocol"], cell["machine"]
    drawing = protocol["drawing"]
    planted = ", ".join(f"{row['pairs']} pairs as {row['kind']} {row['exposures']}" for row in stream["planted"])
    text = TEXT.format(
        done=sum((c.method, c.stream, c.seed) in results.cells for c in wanted), all=len(wanted),
        base=protocol["model"], resolution=protocol["resolution"], side=stream["side"], passes=stream["passes"],
        mixed=f"The mixed one holds {cell['rows']['stream']:,} rows: {planted}; {stream['rare']} pairs in a rare style "
        f"and {stream['ordinary']} ordinary ones, of different things",
        steps=f"{protocol['steps'] or -(-cell['rows']['stream'] * stream['passes'] // protocol['batch_size']):,}",
        batch=protocol["batch_size"], lr=protocol["lr"], dropout=stream["caption_dropout"],
        machine=f"a machine with {machine['cores']} cores, {machine['processor']}, torch {machine['torch']}",
        images=drawing["images"], sampling=drawing["steps"], guidance=drawing["guidance_scale"], gallery=GALLERY,
        held_out=drawing["held_out"], smallest=_smallest(results),
    )  # fmt: skip
    parts = text.split("\n\n")
    return "\n\n".join(fill(part, 120, break_long_words=False, break_on_hyphens=False) for part in parts) + "\n"


def _smallest(results: Results) -> str:
    """What differences the run could have shown."""
    told = [(case, found) for case in results.cases("mixed") if (found := results.excess("none", "mixed", case))]
    if not told:
        return ""
    worst = max(told, key=lambda row: row[1].smallest)
    best = min(told, key=lambda row: row[1].smallest)
    return (
        f"The smallest excess that would have been seen four times in five lies between {best[1].smallest:.2f} "
        f"({best[0]}) and {worst[1].smallest:.2f} ({worst[0]}), as reckoned from the run without a filter."
    )
