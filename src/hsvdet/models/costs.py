"""What every model costs at its own size, with 80 classes. Written by `python benchmarks/zoo.py`, which counts it
(profiler.py); counting all takes half a minute."""

from typing import NamedTuple


class Cost(NamedTuple):
    """of: the `profiler.fingerprint` of what was counted. operations: two for each multiply-add."""

    of: str
    parameters: int
    operations: int


COSTS = {
    "yolov8-n": Cost("46001424", 3_157_184, 8_742_912_000),
    "yolov8-s": Cost("740a9f80", 11_166_544, 28_601_548_800),
    "yolov8-m": Cost("492342d5", 25_902_624, 78_935_654_400),
    "yolov8-l": Cost("17c93e71", 43_691_504, 165_147_443_200),
    "yolov8-x": Cost("0fbcaf7e", 68_229_632, 257_803_264_000),
    "hsv-det-n": Cost("05eea34c", 3_485_634, 9_460_400_128),
    "hsv-det-s": Cost("52301556", 12_478_802, 30_875_385_856),
    "hsv-det-m": Cost("100140d6", 27_821_474, 82_656_067_584),
    "hsv-det-l": Cost("db75443a", 45_790_706, 170_206_298_112),
    "hsv-det-x": Cost("2141056c", 71_508_994, 265_437_552_640),
    "hsv-det-n+": Cost("ea5ea7aa", 3_508_098, 9_236_797_440),
    "hsv-det-s+": Cost("3724d915", 12_564_434, 30_525_173_760),
    "hsv-det-m+": Cost("75158c95", 27_945_858, 82_264_379_904),
    "hsv-det-l+": Cost("1f34715c", 45_926_642, 169_815_822_336),
    "hsv-det-x+": Cost("85548034", 71_719_810, 265_075_942_400),
    "yolov8-n-e2e": Cost("9962a87b", 2_847_116, 7_475_251_200),
    "yolov8-s-e2e": Cost("5c164558", 10_813_084, 27_244_646_400),
    "yolov8-m-e2e": Cost("251f376e", 25_676_268, 78_001_920_000),
    "yolov8-l-e2e": Cost("5c294bc6", 43_679_804, 165_082_931_200),
    "yolov8-x-e2e": Cost("b28fccbc", 68_215_052, 257_722_624_000),
    "hsv-det-n-e2e": Cost("3953409b", 3_198_030, 7_969_136_640),
    "hsv-det-s-e2e": Cost("64586800", 12_210_974, 29_168_271_360),
    "hsv-det-m-e2e": Cost("a46d663e", 27_719_502, 81_330_645_504),
    "hsv-det-l-e2e": Cost("755f31c0", 45_914_942, 169_751_310_336),
    "hsv-det-x-e2e": Cost("729f2180", 71_705_230, 264_995_302_400),
    "detr-r50": Cost("229b951f", 41_521_941, 203_328_051_200),
    "detr-r101": Cost("28c6c0f3", 60_461_845, 362_423_244_800),
    "detr-r50-dc5": Cost("e7bea643", 41_521_941, 455_505_459_200),
    "detr-r101-dc5": Cost("ba456dcd", 60_461_845, 614_600_652_800),
    "detr-tiny": Cost("d138969d", 552_549, 363_948_800),
    "conditional-detr-r50": Cost("e040ad20", 43_415_574, 211_909_376_000),
    "conditional-detr-r50-dc5": Cost("8e77294d", 43_415_574, 473_337_804_800),
    "conditional-detr-tiny": Cost("0e2c7f00", 619_174, 374_464_000),
    "dab-detr-r50": Cost("abffc7b1", 43_668_690, 214_863_104_000),
    "dab-detr-r50-3pat": Cost("186bea72", 43_669_458, 241_536_665_600),
    "dab-detr-r50-dc5": Cost("6d42e84a", 43_668_690, 481_246_054_400),
    "dab-detr-r50-dc5-3pat": Cost("ded6c589", 43_669_458, 525_337_856_000),
    "dab-detr-tiny": Cost("42d8036d", 636_915, 383_961_600),
    "dn-detr-r50": Cost("85aa2649", 43_689_345, 214_863_104_000),
    "dn-detr-r50-3pat": Cost("21d4a48c", 43_690_113, 241_536_665_600),
    "dn-detr-r50-dc5": Cost("f9f16274", 43_689_345, 481_246_054_400),
    "dn-detr-r50-dc5-3pat": Cost("5d8fe0b1", 43_690_113, 525_337_856_000),
    "dn-detr-tiny": Cost("7d3fdb2a", 642_018, 383_961_600),
    "deformable-detr-r50": Cost("4b0037d9", 40_066_838, 407_908_268_032),
    "deformable-detr-r50-single-scale": Cost("ce0c134a", 34_063_766, 189_418_649_600),
    "deformable-detr-r50-single-scale-dc5": Cost("dc4b6000", 34_063_766, 311_733_401_600),
    "deformable-detr-tiny": Cost("156d9295", 663_718, 743_091_200),
    "deformable-detr-r50-refine": Cost("1467cee6", 40_832_698, 407_908_268_032),
    "deformable-detr-refine-tiny": Cost("a354d851", 691_278, 743_091_200),
    "deformable-detr-r50-two-stage": Cost("01fa4fd8", 41_161_740, 417_759_453_184),
    "deformable-detr-two-stage-tiny": Cost("6220587b", 713_184, 821_414_400),
    "dn-deformable-detr-r50": Cost("3ca4ba3d", 47_409_387, 550_711_429_120),
    "dn-deformable-detr-tiny": Cost("bab0abb2", 710_887, 753_715_200),
    "rt-detr-r18": Cost("3d6fa89e", 20_184_464, 59_372_339_200),
    "rt-detr-r34": Cost("c28875f6", 31_441_668, 91_491_328_000),
    "rt-detr-r50-m": Cost("75dcf73c", 36_593_772, 98_484_224_000),
    "rt-detr-r50": Cost("bc89ad80", 42_891_372, 135_701_504_000),
    "rt-detr-r101": Cost("65de1c50", 76_556_268, 258_493_030_400),
    "rt-detr-tiny": Cost("d828dbff", 846_392, 723_660_800),
}
