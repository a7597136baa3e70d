"""python -m taming_jax.convert --vgg16 vgg16-397923af.pth --lpips vgg.pth [--out weights/lpips_vgg16.npz]"""

import argparse
import sys

from taming_jax.convert.lpips import convert_lpips


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python -m taming_jax.convert", description="Bring in weights of other programs.")
    parser.add_argument("--vgg16", required=True, help="torchvision's vgg16-397923af.pth, or an npz of its arrays")
    parser.add_argument("--lpips", required=True, help="LPIPS's linear layers, vgg.pth, or an npz of its arrays")
    parser.add_argument("--out", default="weights/lpips_vgg16.npz", help="file to write; default %(default)s")
    given = parser.parse_args(arguments)
    try:
        digests = convert_lpips(given.vgg16, given.lpips, given.out)
    except ValueError as error:
        sys.exit(f"error: {error}")
    for path, digest in digests.items():
        print(f"{digest}  {path}")
    print(f"wrote {given.out}")


if __name__ == "__main__":
    main()
