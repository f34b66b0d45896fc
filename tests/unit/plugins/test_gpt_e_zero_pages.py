"""gpt_e: zeroed memory goes back to the kernel, and nothing else does."""

from __future__ import annotations

import ctypes
import mmap
import sys

import pytest

from gpt_e.zero_pages import MIN_BYTES, Mapping, anonymous_mappings, drop_zero_pages
from tests.support import resident_bytes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def test_zeros_are_dropped_and_values_stay() -> None:
    size = 2 * MIN_BYTES
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    with mmap.mmap(-1, size, flags) as memory:
        memory.write(bytes(size))
        memory[5 * 2**20 + 3] = 7
        view = ctypes.c_char.from_buffer(memory)
        address = ctypes.addressof(view)
        del view
        before = resident_bytes()
        assert drop_zero_pages({Mapping(address, address + size)}) == size - 2**20
        assert before - resident_bytes() > size - 4 * 2**20
        assert memory[5 * 2**20 + 3] == 7
        assert sum(memory[:: mmap.PAGESIZE]) == 0
        memory[0] = 1
        assert memory[0] == 1


def test_only_large_mappings_of_no_allocator_are_found() -> None:
    found = anonymous_mappings()
    assert all(end - start >= MIN_BYTES and start % (64 * 2**20) for start, end in found)
    with mmap.mmap(-1, 3 * MIN_BYTES, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        view = ctypes.c_char.from_buffer(memory)
        address = ctypes.addressof(view)
        del view
        assert any(start <= address < end for start, end in anonymous_mappings() - found)


def test_a_mapping_that_is_gone_is_skipped() -> None:
    address = 2**16  # the kernel maps nothing there
    assert drop_zero_pages({Mapping(address, address + MIN_BYTES)}) == 0
