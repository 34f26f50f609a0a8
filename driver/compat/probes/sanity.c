/* SPDX-License-Identifier: GPL-2.0 */
/* Must compile everywhere: proves that the flags handed to probe.sh are right. */
#include <linux/module.h>
#include <linux/blk-mq.h>
int probe(struct request *rq) { return rq->tag; }
