"""Published vectors of every primitive, as their documents print them."""

from __future__ import annotations

from typing import Any

from reference import LABEL


def primitives() -> dict[str, Any]:
    """Return published vectors of every primitive, as their documents print them."""
    nist = "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4"
    return {
        "protocol": LABEL,
        "what": "published vectors of the primitives",
        "x25519": [
            {"source": "RFC 7748, 5.2, first",
             "secret": "a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4",
             "public": "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c",
             "shared": "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552"},
            {"source": "RFC 7748, 5.2, second",
             "secret": "4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d",
             "public": "e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493",
             "shared": "95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957"},
            {"source": "RFC 7748, 6.1",
             "secret": "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a",
             "public": "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f",
             "shared": "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"},
        ],
        "hkdf_sha256": [
            {"source": "RFC 5869, A.1", "ikm": "0b" * 22, "salt": bytes(range(13)).hex(),
             "info": bytes(range(0xF0, 0xFA)).hex(), "length": 42,
             "okm": "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"},
            {"source": "RFC 5869, A.2", "ikm": bytes(range(0x50)).hex(), "salt": bytes(range(0x60, 0xB0)).hex(),
             "info": bytes(range(0xB0, 0x100)).hex(), "length": 82,
             "okm": "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e09"
                    "da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87"},
            {"source": "RFC 5869, A.3", "ikm": "0b" * 22, "salt": "", "info": "", "length": 42,
             "okm": "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8"},
        ],
        "hmac_sha256": [
            {"source": "RFC 4231, test case 1", "key": "0b" * 20, "data": b"Hi There".hex(),
             "mac": "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"},
            {"source": "RFC 4231, test case 2", "key": b"Jefe".hex(), "data": b"what do ya want for nothing?".hex(),
             "mac": "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"},
            {"source": "RFC 4231, test case 3", "key": "aa" * 20, "data": "dd" * 50,
             "mac": "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe"},
            {"source": "RFC 4231, test case 6", "key": "aa" * 131,
             "data": b"Test Using Larger Than Block-Size Key - Hash Key First".hex(),
             "mac": "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"},
        ],
        "ed25519": [
            {"source": "RFC 8032, 7.1, test 1", "message": "",
             "secret": "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
             "public": "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
             "signature": "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
                          "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"},
            {"source": "RFC 8032, 7.1, test 2", "message": "72",
             "secret": "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
             "public": "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
             "signature": "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
                          "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"},
            {"source": "RFC 8032, 7.1, test 3", "message": "af82",
             "secret": "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
             "public": "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
             "signature": "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac"
                          "18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a"},
        ],
        "aes_256_ctr": [
            {"source": "NIST SP 800-38A, F.5.5", "key": nist, "counter": bytes(range(0xF0, 0x100)).hex(),
             "plain": "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51"
                      "30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710",
             "cipher": "601ec313775789a5b7a7f504bbf3d228f443e3ca4d62b59aca84e990cacaf5c5"
                       "2b0930daa23de94ce87017ba2d84988ddfc9c58db67aada613c2dd08457941a6"},
        ],
        "aes_256_gcm": [
            {"source": "McGrew and Viega, test case 13", "key": "00" * 32, "nonce": "00" * 12, "plain": "",
             "associated": "", "cipher": "", "tag": "530f8afbc74536b9a963b4f1c4cb738b"},
            {"source": "McGrew and Viega, test case 14", "key": "00" * 32, "nonce": "00" * 12, "plain": "00" * 16,
             "associated": "", "cipher": "cea7403d4d606b6e074ec5d3baf39d18", "tag": "d0d1c8a799996bf0265b98b5d48ab919"},
            {"source": "McGrew and Viega, test case 16",
             "key": "feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308",
             "nonce": "cafebabefacedbaddecaf888",
             "plain": "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
                      "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39",
             "associated": "feedfacedeadbeeffeedfacedeadbeefabaddad2",
             "cipher": "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa"
                       "8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662",
             "tag": "76fc6ece0f4e1768cddf8853bb2d551b"},
        ],
        "sha256": [
            {"source": "FIPS 180-4 example", "data": b"abc".hex(),
             "digest": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
        ],
    }  # fmt: skip
