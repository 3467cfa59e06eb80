"""gpuvm-info: what the guest's kernel driver says about its GPU."""

from __future__ import annotations

import argparse
import glob
import json
import os
import sys

from .drm import COMPUTE, COPY, GRAPHICS, M2MF, RECTANGLE, Device

CLASSES = {
    "memory to memory (9039)": M2MF,
    "copy engine (90b5)": COPY,
    "2D (902d)": RECTANGLE,
    "3D (9097)": GRAPHICS,
    "compute (90c0)": COMPUTE,
}


def gather() -> dict[str, object]:
    """All that is found, by name."""
    found: dict[str, object] = {"kernel": os.uname().release}
    for path in glob.glob("/sys/bus/pci/drivers/nouveau/0000:*"):
        found["pci"] = os.path.basename(path)
        with open(f"{path}/resource") as file:
            areas = [tuple(int(word, 16) for word in line.split()) for line in file.readlines()[:6]]
        found["bars"] = {
            f"BAR{at}": end - start + 1 for at, (start, end, _) in enumerate(areas) if end > start
        }
        with open(f"{path}/irq") as file:
            found["interrupt"] = int(file.read())
        found["msi"] = os.path.isdir(f"{path}/msi_irqs")
    with Device() as device:
        for name in ("chipset", "device", "vram", "gart", "bar1", "units", "vram_used"):
            found[name] = device.parameter(name)
        first, second = device.parameter("time"), device.parameter("time")
        found["timer_runs"] = second > first
        channel = device.channel()
        classes = {}
        for name, class_ in CLASSES.items():
            try:
                channel.object(class_)
                classes[name] = True
            except OSError:
                classes[name] = False
        found["classes"] = classes
        channel.close()
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="gpuvm-info", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    found = gather()
    if options.json:
        print(json.dumps(found))
        return 0
    units = int(str(found["units"]))
    print(f"NVIDIA chipset {found['chipset']:x}, device {found['device']:04x}, at {found.get('pci')}")
    print(
        f"Linux {found['kernel']}, nouveau, {'MSI' if found.get('msi') else 'INTx'} {found.get('interrupt')}"
    )
    print(f"video memory {int(str(found['vram'])) >> 20} MiB, BAR1 {int(str(found['bar1'])) >> 20} MiB")
    print(f"{units & 0xFF} clusters, {units >> 8 & 0xFFFF} multiprocessors, {units >> 32} partitions")
    classes = found["classes"]
    assert isinstance(classes, dict)
    print(f"classes: {', '.join(name for name, there in classes.items() if there)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
