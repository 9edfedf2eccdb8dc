"""nccleaner as a library, in cells: the scores, what cut-offs cost, the pairs nearest to a text.

Open it in an editor that knows percent cells (VS Code, Spyder, Jupyter with jupytext), in the
folder with `shards/` and `trusted.csv`, or run it as a whole, and find the figures as PNG files:

    python examples/notebook.py
"""

# %%
import io
import textwrap
from pathlib import Path

import matplotlib.pyplot as plt
import pyarrow.dataset as ds
from PIL import Image

import nccleaner
from nccleaner.config import RunConfig
from nccleaner.data.locations import find_shards
from nccleaner.pipeline.backbones import limits_of
from nccleaner.pipeline.originals import read_originals

SHARDS = "shards"
TRUSTED = "trusted.csv"
RUN = Path("nccleaner-run")

# %% Learn, unless that is done, and decide.
if not (RUN / "run.json").exists():
    fitted = nccleaner.fit(SHARDS, meta=TRUSTED, run=RUN, config=RunConfig.preset("small"))
    print(f"AUROC on held-out trusted pairs {fitted.held_out_auroc:.3f}")
summary = nccleaner.purge(RUN).summary
before = summary.mismatched_before
print(f"Kept {summary.kept:,} of {summary.samples:,} samples.")
print(f"Mismatched before: {before.value:.1%} (95% interval {before.low:.1%} to {before.high:.1%})")

# %% The scores are Parquet files; all of them are one table.
scores = ds.dataset(RUN / "scores").to_table().to_pandas()
pairs = scores[scores["status"] == "ok"].sort_values("corrected_similarity")
print(pairs.describe())

# %% Two hills, the mismatched on the left: how far they overlap is how hard the data are.
figure, axes = plt.subplots(figsize=(7, 3), layout="constrained")
axes.hist(pairs["corrected_similarity"], bins=50, color="tab:blue")
axes.set(xlabel="corrected similarity, higher = better matched", ylabel="pairs")
figure.savefig("scores.png")

# %% What other cut-offs would keep, and how many of those pairs would be mismatched.
choices = [choice for choice in summary.cut_offs if choice.mismatched and choice.recall]
recall = [choice.recall.value for choice in choices]
figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
axes.fill_between(
    recall,
    [choice.mismatched.low for choice in choices],
    [choice.mismatched.high for choice in choices],
    alpha=0.3,
    label="95 % interval",
)
axes.plot(recall, [choice.mismatched.value for choice in choices], marker="o")
for choice in choices:
    place = (choice.recall.value, choice.mismatched.value)
    axes.annotate(f"{choice.value:.2f}", place, textcoords="offset points", xytext=(4, 6))
axes.set(
    xlabel="share of the good pairs that is kept",
    ylabel="share of the kept pairs\nthat is mismatched",
    title=f"At each point: the cut-off on {summary.cut_off.column}",
)
axes.legend()
figure.savefig("cut-offs.png")


# %% Images come from the shards, where they stay.
def show_pairs(names, title, file):
    """Draws the pairs of these names, each a shard and a key, with their captions."""
    limits = limits_of(RunConfig().data)
    found = list(read_originals(find_shards(SHARDS), names, limits=limits))
    found.sort(key=lambda sample: names.index((sample.shard, sample.key)))
    figure, axes = plt.subplots(1, len(found), figsize=(2 * len(found), 3), layout="constrained")
    for place, sample in zip(axes, found, strict=True):
        place.imshow(Image.open(io.BytesIO(sample.image)).convert("RGB"))
        caption = textwrap.fill(textwrap.shorten(sample.caption, 90), 25)
        place.set_title(caption, fontsize=8, parse_math=False)
        place.axis("off")
    figure.suptitle(title)
    figure.savefig(file)


# %% The pairs that are most surely mismatched.
worst = pairs.head(6)
show_pairs(list(zip(worst["shard"], worst["key"], strict=True)), "Dropped", "dropped.png")

# %% The kept pairs nearest to a text.
hits = nccleaner.search(RUN, "a bird", count=6)
for hit in hits:
    print(f"{hit.product:.3f}  {hit.shard}/{hit.key}  {hit.caption}")
show_pairs([(hit.shard, hit.key) for hit in hits], "Nearest to: a bird", "nearest.png")
