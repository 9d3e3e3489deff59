"""Facts about the published A5 files `A5=k.csv` of the repository jopetty/word-problem.

"historical": plain files of 10,000 rows (3,600 for length 2) in its history; "current": the Git LFS
files of its head, whose seeds are not known, except for the length-2 file, which is in both.
"""

from typing import Literal, NamedTuple

SOURCE = "jopetty/word-problem"


class PublishedFile(NamedTuple):
    """One file: where it is, what it holds, and its size in bytes and SHA-256."""

    collection: Literal["historical", "current"]
    length: int
    rows: int | None
    seed: int | None
    size: int
    sha256: str


def find_published(sha256: str) -> PublishedFile | None:
    """Returns the published file with this hash (in lower-case hexadecimal digits), or None."""
    return next((file for file in PUBLISHED if file.sha256 == sha256), None)


def _historical(length: int, rows: int, seed: int, size: int, sha256: str) -> PublishedFile:
    return PublishedFile("historical", length, rows, seed, size, sha256)


def _current(length: int, size: int, sha256: str) -> PublishedFile:
    return PublishedFile("current", length, None, None, size, sha256)


PUBLISHED = (
    _historical(
        2, 3_600, 946607, 66_018, "5fa1b247ecf078d027a71fff7c486d6e4f12df4d0f8ff4526bc91cf759bbf307"
    ),
    _historical(
        3,
        10_000,
        892858,
        240_072,
        "bf8115a4e5566db1113dde9f2068ea688d167a9b6c01c98ba36294fef273aee7",
    ),
    _historical(
        4,
        10_000,
        25445,
        286_550,
        "0c406fd2507ee938f3fe8bc9946234d1c98889c4b6f37afa1505c35d37d41de4",
    ),
    _historical(
        5,
        10_000,
        137030,
        353_405,
        "13c592446af4ecca79c50f00241ae82c367443b866d58d126518008bc09bc4fa",
    ),
    _historical(
        6,
        10_000,
        288871,
        410_069,
        "c75314631c1c3cb8ad00760e56f10f7d8a2e1fa628eeca000276858566991fa4",
    ),
    _historical(
        7,
        10_000,
        120205,
        466_857,
        "5e5e82bfbbff5b44e92b030424cddd18efd4876aacae8dfca391f45174363a4f",
    ),
    _historical(
        8,
        10_000,
        335161,
        523_336,
        "9725801527b81a9cfad70f408b5a6b73b54511e973b1ac3bd93106de2fa28f6c",
    ),
    _historical(
        9,
        10_000,
        977792,
        579_740,
        "509096b963fd60c52620d4bd1420a2ff1adb8fe77f398b5dfd47df45efd7574d",
    ),
    _historical(
        10,
        10_000,
        490455,
        636_753,
        "f1540df025d2533cf5afef00b8e3506d668b48e43f35e3e6d7c25b3371ca072e",
    ),
    _historical(
        16,
        10_000,
        623164,
        976_719,
        "295b3b4ebbbba3026ccdc9fe068df8c5a5a41d225a00f37a52ca35621b531ce1",
    ),
    _current(2, 66_018, "5fa1b247ecf078d027a71fff7c486d6e4f12df4d0f8ff4526bc91cf759bbf307"),
    _current(3, 5_184_018, "b6deb8732e380bf6f78e7d8b312c49ef9415afb00b225e5383273585c3662433"),
    _current(4, 29_667_856, "caf2a3e7381c26b6c85bba0e401ba36f32ffc83c01d7ddd900f2ba9d6c9cea53"),
    _current(5, 35_333_790, "67edb76df072854c767b5fd7d697022b75c1c4a07b5b4beb4507c5bd9112a007"),
    _current(6, 40_999_379, "1e441715a6138fb8c1669a37a1463d680bb5a18e8ccc19fb41c411660dfa74e6"),
    _current(7, 46_665_582, "0c0a1ec07462fbf86acbe3654df4f3df7c044b453ef884331e21d6679d407fe1"),
    _current(8, 52_332_838, "751f10bdd0b56a0331211ade376c779641ccaf9171ddefcb026a5552ef26798b"),
    _current(9, 57_998_967, "0ef43e8f7871c52d1252254b6460cc8a063c2344909805e90b63651881f5d2d1"),
    _current(10, 63_667_048, "2420bf67ec445620ebc606df34b8dd8e111d6dbafa37a5febd1d45d0817498d5"),
    _current(11, 69_332_824, "04cc19634e1bebc2f89e1530063238f151d8023e3928f439f0aa3b6317f3014a"),
    _current(12, 74_999_612, "d7f373aa1c7a35a8eb478dfa79d9fbb60f79ca84dfc3ca8c78ed30e77be6af7d"),
    _current(13, 80_667_900, "faa2bdfb16c195ff530abe1f3700718ffa107c88629c91c5389c7d3790c24d18"),
    _current(14, 86_334_749, "82bbc02229fcf1c25d93bc2f62b68236961f0e94bd78f10c078f17abf382e7f1"),
    _current(15, 92_001_387, "8dea4a9ccd41910fe2390d8df579d486c4d89e67321fa8d45946131019be2978"),
    _current(16, 97_668_616, "8729a39418471ae30ecfe37caf2f0aa510297bbd3beaa03f8531816658d5c4fb"),
    _current(17, 103_331_498, "8ce255fb7c48262b28280ba12b1d1b77c2d20d8fd88bf6716e8a610b22018b66"),
    _current(18, 109_000_662, "846615ad6dfc5c0903ede05d16b3b5ef6cba9c345c68a2b98e345680d8abba7f"),
    _current(19, 114_666_139, "cb3f30051bd6dc791f5ad5375dbd92184b14a57904a2dcc0a7aba1c7c9f088c3"),
    _current(20, 120_334_884, "61a06b9ad5b00b647f8fb90d69870616b0cc5afc66cafa304c1339e04d458926"),
)
