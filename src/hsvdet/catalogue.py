"""Every model with what it costs, known without PyTorch: what `hsvdet models` lists.

A test holds ROWS equal to the table of models/__init__.py, and to what profiler.py counts.
"""

# pyright: strict
# ruff: noqa: E501  (a row is a line)

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, NamedTuple

from .weights import PUBLISHED, PublishedWeights


@dataclass(frozen=True)
class ModelRow:
    """A line of `hsvdet models`: the cost at `size` (height, width), what it was designed for, and 80 classes.

    gflops: two operations for each multiply-add. licence: of the design as written here. weights: the published ones
    that its name stands for."""

    family: str
    name: str
    parameters: int
    gflops: float
    size: tuple[int, int]
    licence: str
    note: str
    weights: PublishedWeights | None

    def to_json(self) -> dict[str, Any]:
        published = None if self.weights is None else self.weights._asdict()
        return dataclasses.asdict(self) | {"weights": published}


def model_table() -> list[ModelRow]:
    """Every model of the library, family by family."""
    return [
        ModelRow(
            row.family,
            name,
            row.parameters,
            row.operations / 1e9,
            row.size,
            row.licence,
            row.note,
            PUBLISHED.get(name),
        )
        for name, row in ROWS.items()
    ]


class Row(NamedTuple):
    """of: the `profiler.fingerprint` of what was counted."""

    of: str
    family: str
    parameters: int
    operations: int
    size: tuple[int, int]
    note: str = ""
    licence: str = "Apache-2.0"


# From here on written by `python benchmarks/zoo.py`, which counts all in minutes.
ROWS: dict[str, Row] = {
    "yolov8-n": Row("46001424", "YOLOv8", 3_157_184, 8_742_912_000, (640, 640)),
    "yolov8-s": Row("740a9f80", "YOLOv8", 11_166_544, 28_601_548_800, (640, 640)),
    "yolov8-m": Row("492342d5", "YOLOv8", 25_902_624, 78_935_654_400, (640, 640)),
    "yolov8-l": Row("17c93e71", "YOLOv8", 43_691_504, 165_147_443_200, (640, 640)),
    "yolov8-x": Row("0fbcaf7e", "YOLOv8", 68_229_632, 257_803_264_000, (640, 640)),
    "hsv-det-n": Row("05eea34c", "HSV-DET", 3_485_634, 9_460_400_128, (640, 640), note="faithful"),
    "hsv-det-s": Row("52301556", "HSV-DET", 12_478_802, 30_875_385_856, (640, 640), note="faithful"),
    "hsv-det-m": Row("100140d6", "HSV-DET", 27_821_474, 82_656_067_584, (640, 640), note="faithful"),
    "hsv-det-l": Row("db75443a", "HSV-DET", 45_790_706, 170_206_298_112, (640, 640), note="faithful"),
    "hsv-det-x": Row("2141056c", "HSV-DET", 71_508_994, 265_437_552_640, (640, 640), note="faithful"),
    "hsv-det-n+": Row("ea5ea7aa", "HSV-DET", 3_508_098, 9_236_797_440, (640, 640), note="recommended"),
    "hsv-det-s+": Row("3724d915", "HSV-DET", 12_564_434, 30_525_173_760, (640, 640), note="recommended"),
    "hsv-det-m+": Row("75158c95", "HSV-DET", 27_945_858, 82_264_379_904, (640, 640), note="recommended"),
    "hsv-det-l+": Row("1f34715c", "HSV-DET", 45_926_642, 169_815_822_336, (640, 640), note="recommended"),
    "hsv-det-x+": Row("85548034", "HSV-DET", 71_719_810, 265_075_942_400, (640, 640), note="recommended"),
    "yolov8-n-e2e": Row("9962a87b", "YOLOv8", 2_847_116, 7_475_251_200, (640, 640), note="no suppression"),
    "yolov8-s-e2e": Row("5c164558", "YOLOv8", 10_813_084, 27_244_646_400, (640, 640), note="no suppression"),
    "yolov8-m-e2e": Row("251f376e", "YOLOv8", 25_676_268, 78_001_920_000, (640, 640), note="no suppression"),
    "yolov8-l-e2e": Row("5c294bc6", "YOLOv8", 43_679_804, 165_082_931_200, (640, 640), note="no suppression"),
    "yolov8-x-e2e": Row("b28fccbc", "YOLOv8", 68_215_052, 257_722_624_000, (640, 640), note="no suppression"),
    "hsv-det-n-e2e": Row("3953409b", "HSV-DET", 3_198_030, 7_969_136_640, (640, 640), note="recommended, no suppression"),
    "hsv-det-s-e2e": Row("64586800", "HSV-DET", 12_210_974, 29_168_271_360, (640, 640), note="recommended, no suppression"),
    "hsv-det-m-e2e": Row("a46d663e", "HSV-DET", 27_719_502, 81_330_645_504, (640, 640), note="recommended, no suppression"),
    "hsv-det-l-e2e": Row("755f31c0", "HSV-DET", 45_914_942, 169_751_310_336, (640, 640), note="recommended, no suppression"),
    "hsv-det-x-e2e": Row("729f2180", "HSV-DET", 71_705_230, 264_995_302_400, (640, 640), note="recommended, no suppression"),
    "yolov8-n-dedup": Row("8e05a68b", "YOLOv8", 3_543_009, 9_393_164_800, (640, 640), note="learned suppression"),
    "yolov8-s-dedup": Row("2ac97b1d", "YOLOv8", 11_609_713, 29_435_302_400, (640, 640), note="learned suppression"),
    "yolov8-m-dedup": Row("45a9cea7", "YOLOv8", 26_378_561, 79_933_248_000, (640, 640), note="learned suppression"),
    "yolov8-l-dedup": Row("c4daf05f", "YOLOv8", 44_183_825, 166_295_769_600, (640, 640), note="learned suppression"),
    "yolov8-x-dedup": Row("c6522f02", "YOLOv8", 68_762_913, 259_121_984_000, (640, 640), note="learned suppression"),
    "hsv-det-n-dedup": Row("34564350", "HSV-DET", 3_871_459, 10_110_652_928, (640, 640), note="learned suppression"),
    "hsv-det-s-dedup": Row("06094304", "HSV-DET", 12_921_971, 31_709_139_456, (640, 640), note="learned suppression"),
    "hsv-det-m-dedup": Row("e9d97c81", "HSV-DET", 28_297_411, 83_653_661_184, (640, 640), note="learned suppression"),
    "hsv-det-l-dedup": Row("6f523525", "HSV-DET", 46_283_027, 171_354_624_512, (640, 640), note="learned suppression"),
    "hsv-det-x-dedup": Row("78e67e8a", "HSV-DET", 72_042_275, 266_756_272_640, (640, 640), note="learned suppression"),
    "hsg-det-n": Row("41814856", "HSG-Det", 3_738_377, 11_435_569_152, (640, 640), note="faithful"),
    "hsg-det-s": Row("13efb5f4", "HSG-Det", 9_493_737, 27_632_629_760, (640, 640), note="faithful"),
    "hsg-det-m": Row("19469f14", "HSG-Det", 22_772_617, 65_513_996_288, (640, 640), note="faithful"),
    "hsg-det-l": Row("17175d4f", "HSG-Det", 38_502_569, 120_867_708_928, (640, 640), note="faithful"),
    "hsg-det-n+": Row("ae94fdc7", "HSG-Det", 4_005_972, 12_037_949_952, (640, 640), note="recommended, no suppression"),
    "hsg-det-s+": Row("57d153df", "HSG-Det", 10_326_476, 30_213_992_960, (640, 640), note="recommended, no suppression"),
    "hsg-det-m+": Row("6fec0860", "HSG-Det", 24_629_028, 72_619_186_688, (640, 640), note="recommended, no suppression"),
    "hsg-det-l+": Row("b6861bd8", "HSG-Det", 40_771_204, 131_095_280_128, (640, 640), note="recommended, no suppression"),
    "detr-r50": Row("229b951f", "DETR", 41_521_941, 203_328_051_200, (800, 1333)),
    "detr-r101": Row("28c6c0f3", "DETR", 60_461_845, 362_423_244_800, (800, 1333)),
    "detr-r50-dc5": Row("e7bea643", "DETR", 41_521_941, 455_505_459_200, (800, 1333)),
    "detr-r101-dc5": Row("ba456dcd", "DETR", 60_461_845, 614_600_652_800, (800, 1333)),
    "detr-tiny": Row("d138969d", "DETR", 552_549, 363_948_800, (320, 320)),
    "smca-detr-r50": Row("2da0b276", "SMCA-DETR", 41_757_398, 209_044_428_800, (800, 1333)),
    "smca-detr-tiny": Row("bf320705", "SMCA-DETR", 564_438, 365_068_800, (320, 320)),
    "conditional-detr-r50": Row("e040ad20", "Conditional DETR", 43_415_574, 211_909_376_000, (800, 1333)),
    "conditional-detr-r50-dc5": Row("8e77294d", "Conditional DETR", 43_415_574, 473_337_804_800, (800, 1333)),
    "conditional-detr-tiny": Row("0e2c7f00", "Conditional DETR", 619_174, 374_464_000, (320, 320)),
    "dab-detr-r50": Row("abffc7b1", "DAB-DETR", 43_668_690, 214_863_104_000, (800, 1333)),
    "dab-detr-r50-3pat": Row("186bea72", "DAB-DETR", 43_669_458, 241_536_665_600, (800, 1333)),
    "dab-detr-r50-dc5": Row("6d42e84a", "DAB-DETR", 43_668_690, 481_246_054_400, (800, 1333)),
    "dab-detr-r50-dc5-3pat": Row("ded6c589", "DAB-DETR", 43_669_458, 525_337_856_000, (800, 1333)),
    "dab-detr-tiny": Row("42d8036d", "DAB-DETR", 636_915, 383_961_600, (320, 320)),
    "dn-detr-r50": Row("85aa2649", "DN-DETR", 43_689_345, 214_863_104_000, (800, 1333)),
    "dn-detr-r50-3pat": Row("21d4a48c", "DN-DETR", 43_690_113, 241_536_665_600, (800, 1333)),
    "dn-detr-r50-dc5": Row("f9f16274", "DN-DETR", 43_689_345, 481_246_054_400, (800, 1333)),
    "dn-detr-r50-dc5-3pat": Row("5d8fe0b1", "DN-DETR", 43_690_113, 525_337_856_000, (800, 1333)),
    "dn-detr-tiny": Row("7d3fdb2a", "DN-DETR", 642_018, 383_961_600, (320, 320)),
    "anchor-detr-r50": Row("85e25111", "Anchor DETR", 37_035_884, 211_415_463_936, (800, 1333)),
    "anchor-detr-r50-dc5": Row("dfe90061", "Anchor DETR", 37_035_884, 399_722_678_272, (800, 1333)),
    "anchor-detr-r101": Row("d1d51f1b", "Anchor DETR", 55_975_788, 370_510_657_536, (800, 1333)),
    "anchor-detr-r101-dc5": Row("36f02397", "Anchor DETR", 55_975_788, 558_817_871_872, (800, 1333)),
    "anchor-detr-tiny": Row("e7709301", "Anchor DETR", 607_816, 423_610_880, (320, 320)),
    "deformable-detr-r50": Row("4b0037d9", "Deformable DETR", 40_066_838, 407_908_268_032, (800, 1333)),
    "deformable-detr-r50-single-scale": Row("ce0c134a", "Deformable DETR", 34_063_766, 189_418_649_600, (800, 1333)),
    "deformable-detr-r50-single-scale-dc5": Row("dc4b6000", "Deformable DETR", 34_063_766, 311_733_401_600, (800, 1333)),
    "deformable-detr-tiny": Row("156d9295", "Deformable DETR", 663_718, 743_091_200, (320, 320)),
    "deformable-detr-r50-refine": Row("1467cee6", "Deformable DETR", 40_832_698, 407_908_268_032, (800, 1333)),
    "deformable-detr-refine-tiny": Row("a354d851", "Deformable DETR", 691_278, 743_091_200, (320, 320)),
    "deformable-detr-r50-two-stage": Row("01fa4fd8", "Deformable DETR", 41_161_740, 417_759_453_184, (800, 1333)),
    "deformable-detr-two-stage-tiny": Row("6220587b", "Deformable DETR", 713_184, 821_414_400, (320, 320)),
    "dn-deformable-detr-r50": Row("3ca4ba3d", "DN-Deformable-DETR", 47_409_387, 550_711_429_120, (800, 1333)),
    "dn-deformable-detr-tiny": Row("bab0abb2", "DN-Deformable-DETR", 710_887, 753_715_200, (320, 320)),
    "dino-r50": Row("29168cb4", "DINO", 46_884_712, 573_360_326_656, (800, 1333)),
    "dino-r50-5scale": Row("dcf20031", "DINO", 47_247_336, 1_697_067_026_432, (800, 1333)),
    "dino-tiny": Row("9f036c6d", "DINO", 692_984, 796_364_800, (320, 320)),
    "lite-dino-r50-h3l1-2p1x3": Row("8ba1879e", "Lite-DINO", 47_675_752, 365_751_322_624, (800, 1333)),
    "lite-dino-r50-h3l1-6p1x1": Row("0c01a2fd", "Lite-DINO", 47_411_560, 343_862_298_624, (800, 1333)),
    "lite-dino-r50-h2l2-2p1x3": Row("6cbc2109", "Lite-DINO", 47_675_752, 311_251_585_024, (800, 1333)),
    "lite-dino-tiny": Row("ec7c94aa", "Lite-DINO", 701_432, 665_292_800, (320, 320)),
    "lite-dino-r50-h3l1-2p1x3-plain": Row("6180d3b2", "Lite-DINO", 47_281_000, 359_942_342_656, (800, 1333)),
    "efficient-detr-r50": Row("76e38b70", "Efficient DETR", 32_737_556, 298_279_862_272, (800, 1333)),
    "efficient-detr-tiny": Row("4692106c", "Efficient DETR", 554_660, 745_740_800, (320, 320)),
    "efficient-detr-r50-e6d6": Row("0b9c6ba9", "Efficient DETR", 41_029_900, 417_680_809_984, (800, 1333)),
    "sparse-detr-r50-rho10": Row("c7a6a127", "Sparse DETR", 41_137_421, 260_179_068_800, (800, 1333)),
    "sparse-detr-r50-rho20": Row("ee6e15d5", "Sparse DETR", 41_137_421, 278_527_313_792, (800, 1333)),
    "sparse-detr-r50-rho30": Row("40068444", "Sparse DETR", 41_137_421, 296_875_558_784, (800, 1333)),
    "sparse-detr-r50-rho40": Row("bdff7c31", "Sparse DETR", 41_137_421, 315_232_061_312, (800, 1333)),
    "sparse-detr-r50-rho50": Row("1397eda0", "Sparse DETR", 41_137_421, 333_580_306_304, (800, 1333)),
    "sparse-detr-tiny": Row("a3f0e983", "Sparse DETR", 711_713, 670_635_936, (320, 320)),
    "rt-detr-r18": Row("3d6fa89e", "RT-DETR", 20_184_464, 59_372_339_200, (640, 640)),
    "rt-detr-r34": Row("c28875f6", "RT-DETR", 31_441_668, 91_491_328_000, (640, 640)),
    "rt-detr-r50-m": Row("75dcf73c", "RT-DETR", 36_593_772, 98_484_224_000, (640, 640)),
    "rt-detr-r50": Row("bc89ad80", "RT-DETR", 42_891_372, 135_701_504_000, (640, 640)),
    "rt-detr-r101": Row("65de1c50", "RT-DETR", 76_556_268, 258_493_030_400, (640, 640)),
    "rt-detr-tiny": Row("d828dbff", "RT-DETR", 846_392, 723_660_800, (320, 320)),
    "mamba-detr-r18": Row("9ca5daa0", "Mamba-DETR", 20_188_584, 59_310_612_480, (640, 640)),
    "mamba-detr-r50": Row("5fec4885", "Mamba-DETR", 42_895_492, 135_639_777_280, (640, 640)),
    "mamba-detr-tiny": Row("0d9eaea1", "Mamba-DETR", 847_172, 724_953_600, (320, 320)),
}  # fmt: skip
