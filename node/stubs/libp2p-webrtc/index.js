const refuse = () => { throw new Error('WebRTC is not part of this daemon: use TCP or a circuit relay') }
export const webRTC = () => refuse
export const webRTCDirect = () => refuse
