#!/bin/busybox sh
# First program of the guest: mounts, names the shell's commands, then hands over to the agent.
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox mount -t tmpfs run /run
/bin/busybox --install -s /bin
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8
ulimit -c 0
ip link set lo up 2>/dev/null
modprobe virtio_console 2>/dev/null # built in, in Debian's kernel
case " $(cat /proc/cmdline) " in
*" gpuvm.probe "*)
    # All that was wanted is a kernel that gets here and a program that runs.
    echo gpuvm-guest-runs >/dev/ttyS0
    reboot -f
    ;;
*" gpuvm.console "*)
    modprobe nouveau
    echo "gpuvm guest: the driver is loaded, gpuvm-info and gpuvm-stress try it; \"exit\" ends the machine."
    cd /root || exit
    setsid -c sh -l </dev/ttyS0 >/dev/ttyS0 2>&1
    poweroff -f
    ;;
esac
gpuvm-agent
# Without its agent the machine is of no use.
poweroff -f
