#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# Finds out what the headers of the kernel at hand offer: compiles each probes/NAME.c with the
# kernel's own flags and writes UBLK_HAVE_NAME for those that pass.
#
# usage: probe.sh OUT.h COMPILER FLAGS...      (started by Kbuild)
set -eu

out=$1
shift
here=$(dirname "$0")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# The flags hold quotes of their own; a response file keeps them as they are.
compiler=$1
shift
for flag in "$@"; do
	printf '%s\n' "$flag" | sed 's/\\/\\\\/g; s/"/\\"/g; s/ /\\ /g'
done > "$work/flags"

try() {
	# shellcheck disable=SC2086 # the compiler may come with a ccache in front
	if $compiler @"$work/flags" -fsyntax-only -Wno-missing-prototypes \
		-Wno-missing-declarations -Werror "$here/probes/$1.c" > "$work/$1.log" 2>&1; then
		touch "$work/$1.ok"
	fi
}

# Others include the header that this one finds.
try uring_cmd_header
if [ -e "$work/uring_cmd_header.ok" ]; then
	echo -DUBLK_HAVE_URING_CMD_HEADER=1 >> "$work/flags"
fi
for probe in "$here"/probes/*.c; do
	try "$(basename "$probe" .c)" &
done
wait

if [ ! -e "$work/sanity.ok" ]; then
	echo "ublk_drv: the probes do not compile against this kernel's headers:" >&2
	cat "$work/sanity.log" >&2
	exit 1
fi

{
	echo "/* Made by compat/probe.sh. */"
	for probe in "$here"/probes/*.c; do
		name=$(basename "$probe" .c)
		upper=$(printf '%s' "$name" | tr '[:lower:]' '[:upper:]')
		if [ -e "$work/$name.ok" ]; then
			echo "#define UBLK_HAVE_$upper 1"
		else
			echo "/* no $upper */"
		fi
	done
} > "$work/config.h"

# Left alone when nothing changed, so that nothing is compiled again.
cmp -s "$work/config.h" "$out" || cp "$work/config.h" "$out"
