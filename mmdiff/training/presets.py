"""What each preset of continued pretraining sets, and the same as a table:

python -m mmdiff.training.presets > docs/presets.md
"""

import dataclasses
import inspect
import re

# What a preset sets; everything else keeps its default, which is what the paper says.
PRETRAIN_PRESETS: dict[str, dict[str, object]] = {
    "paper": {},
    "official_code": {
        "masking.noise": 0.0,
        "masking.whole_tracks": False,
        "masking.min_coverage": 0.0,
        "masking.hidden_values": "constant",
        "masking.mask_padding": True,
        "masking.fallback_without": "body",
        "masking.drop_by_rounding": True,
        "objective.empty_rows_count": True,
        "objective.round_numerator": True,
        "objective.first_frame_segment": 0,
        "objective.attend_to_padding": True,
        "optimizer.state": "compact",
        "data.crop_boxes_with_frame": False,
        "data.include_answers": True,
        "data.clip_question_span": False,
    },
    "equal_budget": {
        "masking.unit": "pooled",
    },
    "mmdiff": {
        "masking.unit": "pooled",
        "masking.hide_at": "input",
        "masking.static": False,
        "objective.stop_gradient_targets": True,
    },
}


def table(config) -> str:
    """Markdown: one row for each field that a preset of the configuration's class sets, one column for each preset."""
    presets = config.presets
    rows = [("field", *presets, "what it is"), ("---",) * (len(presets) + 2)]
    for path in dict.fromkeys(path for fields in presets.values() for path in fields):
        section, field = path.split(".")
        holder = getattr(config, section)
        default = getattr(holder, field)
        values = [f"`{fields[path]}`" if path in fields else f"{default}" for fields in presets.values()]
        rows.append((f"`{path}`", *values, _comment(type(holder), field)))
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _comment(section: type, field: str) -> str:
    """What stands beside a field in the source of its dataclass."""
    assert field in {found.name for found in dataclasses.fields(section)}
    return re.search(rf"^ +{field}: .*?  # (.*)$", inspect.getsource(section), re.MULTILINE)[1].replace("|", "/")


def page(video, text) -> str:
    """The page of the documentation, of a configuration for video and one for text."""
    return (
        "# Presets of continued pretraining\n\n## Video\n\n"
        "`--config.preset=NAME` sets the fields below, and other fields of the command line win over it. Values in code "
        "type are set by the preset, the others are defaults. Where the paper says nothing, the defaults are those of "
        "its code; (*) marks what its code does differently from what it says: [original_code.md](original_code.md). "
        "Why `mmdiff` is as it is: [masking.md](masking.md).\n\n"
        "This page is written by `python -m mmdiff.training.presets`; a test compares the two.\n\n"
        + table(video)
        + "\n\n## Text\n\n"
        "What the methods of the paper's tables set, the arguments of `configs/acl_arc.py`, is in [text.md](text.md).\n\n"
        + table(text)
        + "\n"
    )


if __name__ == "__main__":
    from mmdiff.training.config import PretrainConfig
    from mmdiff.training.text_config import TextPretrainConfig

    print(page(PretrainConfig(), TextPretrainConfig()), end="")
