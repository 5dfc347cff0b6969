"""Makes tables of analysis/published from a folder of transcribed ones: facts and sources kept, accuracies in percent, our names added.

python docs/make_published.py FOLDER

Left out: training errors, top-5, and the sensitivity tables, whose rows are hyperparameters. Averages over levels stay, without a rate.
Tables of one method (``sop.csv``) are not made: their rows come from the paper, its repository and reruns of it, one by one.
"""

import csv
import sys
from pathlib import Path

OUT = Path(__file__).parent.parent / "analysis" / "published"
COLUMNS = (
    "method",
    "published_as",
    "dataset",
    "noise",
    "variant",
    "rate",
    "architecture",
    "statistic",
    "accuracy",
    "std",
)
COLUMNS += ("metric", "source", "verified", "note")
KINDS = {"sym": "symmetric", "asym": "asymmetric", "pair": "pair"}
BLOCKS = (
    "asym_block5"  # what asymmetric noise of CIFAR-100 is in the code of nearly all of them, whatever the text says
)
CLEAN_VAL = "its scripts pick the epoch by clean validation images: compare with clean_val"
REDRAWN = "each net's loader redraws the noise there, which inflates the number (see the card of elr_plus)"
METHODS = {
    "augdesc": ("AugDesc",),
    "disc": ("DISC",),
    "longremix": ("LongReMix",),
    "promix": ("ProMix",),
    "ssr": ("SSR+", "SSR"),
    "unicon": ("UNICON",),
    "ce": ("CE", "Cross-Entropy", "Standard", "Vanilla", "FullModel", "ERM", "SGD (SAM paper)"),
    "bootstrap": ("Bootstrap", "Reed Soft"),
    "cal": ("CAL",),
    "cores": ("CORES", "CORES*"),
    "coteaching": ("Co-teaching", "Co-teaching (released code)"),
    "coteaching_plus": ("Co-teaching+",),
    "decoupling": ("Decoupling",),
    "dividemix": ("DivideMix",),
    "dropout": ("Dropout", "ERM + dropout ( p = 0.7 )", "ERM + dropout ( p = 0.8 )"),
    "elr": ("ELR", "ELR(cosine)"),
    "elr_plus": ("ELR+", "ELR+ (best on test)"),
    "f_divergence": ("F-Div",),
    "f_correction": ("F-correction", "Forward", "Forward-T"),
    "focal": ("Focal Loss",),
    "gce": ("GCE",),
    "incv": ("Iterative-CV",),
    "jocor": ("JoCoR",),
    "label_smoothing": ("LabelSmoothing",),
    "m_correction": ("M-correction", "M-correction (Arazo 2019)", "M-DYR-H", "MD-DYR-SH"),
    "mentormix": ("MentorMix", "MentorMix (LJY-HY re-implementation)"),
    "mentornet_dd": ("MentorNet DD",),
    "mentornet_pd": ("MentorNet PD", "MentorNet"),
    "meta_learning": ("Meta-Learning", "MLNT"),
    "mixup": ("Mixup", "Mixup (SAM paper)", "mixup ( alpha = 8 )", "mixup ( alpha = 32 )"),
    "negative_label_smoothing": ("Negative-LS",),
    "peer_loss": ("Peer-Loss",),
    "p_correction": ("P-correction", "PENCIL"),
    "pes": ("PES", "PES(semi)"),
    "s_model": ("S-model", "S-Model"),
    "sce": ("SCE",),
    "self_paced": ("Self-paced",),
    "sop": ("SOP",),
    "sop_plus": ("SOP+",),
    "t_revision": ("T-Revision",),
    "volminnet": ("VolMinNet",),
    "weight_decay": ("WeightDecay",),
    "apl": ("NCE+RCE",),
}
SELF_PACED = "MentorNet is the self-paced variant"  # a note of Co-teaching's tables
OURS = {theirs: ours for ours, names in METHODS.items() for theirs in names}


def percent(row: dict[str, str], value: str) -> str:
    """A printed value or deviation in percent of accuracy, with the digits it was printed with."""
    if not value:
        return ""
    digits = len(value.partition(".")[2])
    scale, digits = (100.0, max(0, digits - 2)) if row["unit"] == "fraction" else (1.0, digits)
    found = float(value) * scale
    return f"{100 - found if row['metric'].endswith('error') and value is row['value'] else found:.{digits}f}"


def main() -> None:
    for path in sorted(Path(sys.argv[1]).glob("*.csv")):
        if "sensitivity" in path.name:
            continue
        rows = []
        for row in csv.DictReader(path.open(encoding="utf-8")):
            if row["metric"].startswith("train") or row["metric"] == "top5" or not row["value"]:
                continue
            variant = row["noise_variant"].split()[0] if row["noise_type"] == "sym" else ""
            ours = OURS.get(row["method"], "")
            synthetic = row["noise_type"] in ("sym", "asym")
            note = [row["note"]] * bool(row["note"]) + [REDRAWN] * (ours == "elr_plus" and synthetic)
            note += [CLEAN_VAL] * (ours == "p_correction" and "yikun2019/PENCIL" in row["source"])
            kind = KINDS.get(row["noise_type"], row["noise_type"])
            told = {
                "method": "self_paced" if ours == "mentornet_pd" and SELF_PACED in row["note"] else ours,
                "published_as": row["method"],
                "dataset": row["dataset"],
                "noise": BLOCKS if (kind, row["dataset"]) == ("asymmetric", "cifar100") else kind,
                "variant": variant if variant in ("inclusive", "exclusive") else "",
                "rate": row["noise_rate"].lstrip("~") if row["noise_rate"][0] in "~0123456789" else "",
                "accuracy": percent(row, row["value"]),
                "std": percent(row, row["std"]),
                "note": "; ".join(note),
            }
            rows.append({**{c: row[c] for c in COLUMNS if c in row}, **told})
        with (OUT / path.name).open("w", newline="", encoding="utf-8") as f:
            writer = csv.DictWriter(f, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        print(f"{path.name}: {len(rows)} rows, {sum(bool(r['method']) for r in rows)} of methods that are here")


if __name__ == "__main__":
    main()
