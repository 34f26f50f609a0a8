/* SPDX-License-Identifier: GPL-2.0 */
/* Lists of requests are a type of their own. */
#include <linux/blk-mq.h>
static void queue_rqs(struct rq_list *list) { }
const struct blk_mq_ops probe = { .queue_rqs = queue_rqs };
