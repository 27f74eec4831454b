"""Seal one encoded frame and open it again, without a call."""

import frameseal

# Make a ring for the same profile on both sides and set the same key. A password KDF derives the key of a passphrase.
ring = frameseal.KeyRing("livekit")
ring.set_passphrase("correct horse battery staple", key_id=0)

# Make one encryptor per outgoing track, and one decryptor per incoming track. The codec decides which bytes stay
# readable.
encryptor = frameseal.Encryptor(ring, codec="opus")
decryptor = frameseal.Decryptor(ring, codec="opus")

frame = bytes.fromhex("78") + b"what an Opus encoder made of 20 ms of speech"
sealed = encryptor.encrypt(frame)
print(f"{len(frame)} bytes sealed into {len(sealed)}; the first byte, 0x{sealed[0]:02x}, stays readable")
print("opened again:", decryptor.decrypt(sealed) == frame)

# A changed frame, or another key, raises an exception and returns no bytes.
tampered = sealed[:10] + bytes([sealed[10] ^ 1]) + sealed[11:]
try:
    decryptor.decrypt(tampered)
except frameseal.AuthenticationFailed as error:
    print("tampered with:", type(error).__name__, "under key id", error.kid)
