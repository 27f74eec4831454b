"""Seal one encoded frame and open it again: the core alone, without a call."""

import frameseal

# Both sides make a ring for the same profile and set the same key. A passphrase goes through a password KDF.
ring = frameseal.KeyRing("livekit")
ring.set_passphrase("correct horse battery staple", key_id=0)

# One encryptor per outgoing track, one decryptor per incoming one. The codec decides which bytes an SFU may read.
encryptor = frameseal.Encryptor(ring, codec="opus")
decryptor = frameseal.Decryptor(ring, codec="opus")

frame = bytes.fromhex("78") + b"what an Opus encoder made of 20 ms of speech"
sealed = encryptor.encrypt(frame)
print(f"{len(frame)} bytes sealed into {len(sealed)}; the first byte, 0x{sealed[0]:02x}, stays readable")
print("opened again:", decryptor.decrypt(sealed) == frame)

# A forwarder that changes anything, or a receiver with another key, gets an exception and no bytes.
tampered = sealed[:10] + bytes([sealed[10] ^ 1]) + sealed[11:]
try:
    decryptor.decrypt(tampered)
except frameseal.AuthenticationFailed as error:
    print("tampered with:", type(error).__name__, "under key id", error.kid)
