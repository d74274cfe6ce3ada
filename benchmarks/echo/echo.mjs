// The smallest node of the Node SDK: it answers each message with the message.
import { node } from '../../sdks/node/index.js';

node(function echo(msg) {
  return msg;
});
