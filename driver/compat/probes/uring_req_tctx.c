/* SPDX-License-Identifier: GPL-2.0 */
/* The task of a request is found through its io_uring task context. */
#include "../uring_header.h"
struct task_struct *probe(struct io_kiocb *req) { return req->tctx->task; }
