"""Run Python code in a process that is killed (SIGSYS) as soon as any of its threads asks for an internet socket.

    python tests/offline.py 'import hsvdet'

A filter of system calls (seccomp, Linux), so that libraries in C++ are caught like those in Python.
"""

import ctypes
import platform
import socket
import struct
import sys

_SOCKET = {"x86_64": 41, "aarch64": 198}  # the number of the system call
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06  # BPF: a word of what is called, a comparison, the verdict
_NUMBER, _FIRST_ARGUMENT = 0, 16  # where they lie
_KILL, _ALLOW = 0x80000000, 0x7FFF0000
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _MODE_FILTER = 38, 22, 2


def available() -> bool:
    return sys.platform == "linux" and platform.machine() in _SOCKET


def forbid_internet() -> None:
    """For this process, its threads and what it starts; for ever. Raises OSError."""
    program = [
        (_LOAD, 0, 0, _NUMBER),
        (_EQUAL, 0, 4, _SOCKET[platform.machine()]),
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
        (_EQUAL, 1, 0, socket.AF_INET),
        (_EQUAL, 0, 1, socket.AF_INET6),
        (_RETURN, 0, 0, _KILL),
        (_RETURN, 0, 0, _ALLOW),
    ]
    code = b"".join(struct.pack("HBBI", *line) for line in program)
    buffer = ctypes.create_string_buffer(code, len(code))

    class Filter(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_void_p)]

    libc = ctypes.CDLL(None, use_errno=True)
    wanted = Filter(len(program), ctypes.cast(buffer, ctypes.c_void_p))
    for arguments in (
        (_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        (_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(wanted), 0, 0),
    ):
        if libc.prctl(*arguments) != 0:
            raise OSError(ctypes.get_errno(), "no filter of system calls here")


if __name__ == "__main__":
    forbid_internet()
    exec(sys.argv[1])
