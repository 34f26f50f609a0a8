// SPDX-License-Identifier: Apache-2.0
#include "tests/vm/fuzz/descriptors.h"

#include <sys/socket.h>
#include <unistd.h>

#include <cstring>

namespace ublkd::driver_fuzz {
namespace {

// A message with room for one descriptor beside it.
struct Envelope {
  explicit Envelope(Passed& content) : part{.iov_base = &content, .iov_len = sizeof(content)} {
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof(control);
  }
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  iovec part;
  msghdr message = {};
};

}  // namespace

bool PassOn(int socket, const Passed& passed) {
  Passed content = passed;
  Envelope envelope(content);
  cmsghdr* head = CMSG_FIRSTHDR(&envelope.message);
  head->cmsg_level = SOL_SOCKET;
  head->cmsg_type = SCM_RIGHTS;
  head->cmsg_len = CMSG_LEN(sizeof(int));
  std::memcpy(CMSG_DATA(head), &passed.fd, sizeof(int));
  return sendmsg(socket, &envelope.message, MSG_DONTWAIT | MSG_NOSIGNAL) > 0;
}

std::optional<Passed> TakeOver(int socket) {
  Passed passed = {};
  Envelope envelope(passed);
  if (recvmsg(socket, &envelope.message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC) !=
      static_cast<ssize_t>(sizeof(passed))) {
    return std::nullopt;
  }
  const cmsghdr* head = CMSG_FIRSTHDR(&envelope.message);
  if (head == nullptr || head->cmsg_type != SCM_RIGHTS) return std::nullopt;
  std::memcpy(&passed.fd, CMSG_DATA(head), sizeof(int));
  return passed;
}

}  // namespace ublkd::driver_fuzz
