# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
# Part of init: what happens at the end of a run. Expects the virtio ports at the descriptors
# 4 (control) and 5 (files).

# Prints the numbers of all processes but this one, its helpers ($@) and kernel threads.
others() {
  local folder pid
  for folder in /proc/[0-9]*; do
    pid=${folder#/proc/}
    [[ " 1 $BASHPID $* " == *" $pid "* ]] && continue
    [ ! -e "$folder/exe" ] || echo "$pid"
  done
}

# Tells of each thread of each process what it is doing and where in the kernel it is.
list_threads() {
  local pid thread
  for pid in $(others "$@"); do
    printf '%s %s\n' "$pid" "$(tr '\0' ' ' <"/proc/$pid/cmdline")"
    for thread in "/proc/$pid/task"/*; do
      printf '  thread %s %s: %s\n' "${thread##*/}" "$(<"$thread/comm")" \
        "$(grep State: "$thread/status")"
      sed 's/^/    /' "$thread/stack"
    done
  done 2>/dev/null
}

# Ends what the program left running; fails, and tells of each, when some can't be ended.
end_others() {
  local pid tries=0
  while [ "$tries" -lt 100 ]; do
    local left
    left=$(others "$@")
    [ -n "$left" ] || return 0
    # shellcheck disable=SC2086
    kill -KILL $left 2>/dev/null
    sleep 0.1
    tries=$((tries + 1))
  done
  for pid in $(others "$@"); do
    echo "stuck $pid $(<"/proc/$pid/comm")" >&4
  done
  list_threads "$@" >/out/threads.txt
  return 1
}

# Asks the kernel for memory that nothing refers to. The second scan tells it from what was just
# being passed on at the first, and objects count from an age of 5 seconds.
find_leaks() {
  [ -w /sys/kernel/debug/kmemleak ] || return 0
  echo scan >/sys/kernel/debug/kmemleak
  sleep 5
  echo scan >/sys/kernel/debug/kmemleak
  cat /sys/kernel/debug/kmemleak >/out/kmemleak.txt
}

# Sends the kernel's messages and everything in /out to the machine.
send_files() {
  dd if=/dev/kmsg of=/run/vm/kmsg.txt iflag=nonblock bs=8k status=none 2>/dev/null
  mv /run/vm/kmsg.txt /out/kmsg.txt
  tar -C /out -cf - . >&5
  echo "files" >&4
}

# Answers the machine: "dump" comes when the time limit has passed. $@ are the helpers.
answer_host() {
  local line
  while read -r line <&4; do
    if [ "$line" = dump ]; then
      echo 8 >/proc/sys/kernel/printk
      echo "<5>vm: the time limit has passed" >/dev/kmsg
      echo w >/proc/sysrq-trigger
      list_threads "$@" >/out/threads.txt
      send_files
      echo o >/proc/sysrq-trigger
    fi
  done
}
