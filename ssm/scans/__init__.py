"""Scans: the algorithms that solve a recurrence, each with the signature (r, h_0) → (y, h_L).

| form | transitions | what it is |
| --- | --- | --- |
| `sequential` | any | one step after the other: the oracle |
| `associative` | closed, lazy | one parallel prefix scan |
| `chunked` | closed, lazy | parallel scans of chunks, with the states between them kept |
| `convolution` | one diagonal, constant key and query | products of matrices, exactly causal |
| `blocked` | `Decay` of a matrix state | the selective scan in blocks of a CPU's cache |
| `kernel` | `Decay` of a matrix state, float32 | the selective scan as one fused GPU kernel |
| `tokens` | `Generated` by tokens | a matrix for each entry of the vocabulary |

`scan` chooses by the structure and the backend, or does what it is told to.
"""

from ssm.scans.choice import Form, check_form, chosen, forms, scan
from ssm.scans.convolution import convolution
from ssm.scans.parallel import associative, chunked
from ssm.scans.sequential import sequential

__all__ = [
    "Form",
    "associative",
    "check_form",
    "chosen",
    "chunked",
    "convolution",
    "forms",
    "scan",
    "sequential",
]
