"""A planted fault: it reads the clear bytes of a footer and forgets that the frame may be shorter."""

from frameseal.inspection.shapes import FOOTER_END


def check(data: bytes) -> bool:
    """Return True for a frame that ends in a footer."""
    if not data.endswith(FOOTER_END) or len(data) < len(FOOTER_END) + 2:
        return False
    clear_len = int.from_bytes(data[-7:-5]) & 0x7FFF
    assert len(data[:clear_len]) == clear_len
    return True
